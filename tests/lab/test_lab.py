"""The main job under real KVM, systemd and cgroup v2, on a machine that only the role `host` made ready."""

from __future__ import annotations

import json

import pytest

from tests.lab.machine import Lab

pytestmark = pytest.mark.lab

KINDS = ("host", "container", "vm")


def test_doctor_finds_kvm_and_cgroup_v2(lab: Lab) -> None:
    seen = lab.run("hybrid", "doctor", "--json")
    assert seen.exit_code == 0, seen
    report = json.loads(seen.stdout)
    assert report["kinds"]["vm"]["facts"]["accelerator"] == "kvm"
    assert report["host"]["cgroups"] == "v2"


def test_compares_all_kinds(lab: Lab) -> None:
    command = ("hybrid", "compare", "/lab/web.yaml", "--as", ",".join(KINDS), "--runs", "2", "--warmup", "0")
    seen = lab.run(*command, "--format", "json", "--output", "/tmp/result", timeout=400)
    assert seen.exit_code == 0, seen.stderr
    result = json.loads(seen.stdout)
    assert result["machine"]["cgroups"] == "v2"
    for kind in KINDS:
        found = result["kinds"][kind]
        assert (found["measured"], found["failures"]) == (2, []), kind
        assert {"entrypoint", "ready", "stop"} <= found["metrics"].keys(), kind
    assert result["kinds"]["vm"]["accelerator"] == "kvm"
    assert result["kinds"]["vm"]["evidence"]["boot_id"] != result["kinds"]["host"]["evidence"]["boot_id"]
    assert result["kinds"]["container"]["evidence"]["boot_id"] == result["kinds"]["host"]["evidence"]["boot_id"]


def test_leaves_nothing_behind(lab: Lab) -> None:
    assert lab.run("hybrid", "ps", "--all", "--quiet").stdout == ""
    assert lab.run("pgrep", "-a", "qemu|crun|runc|conmon|busybox").stdout == ""
    assert "hybrid" not in lab.run("cat", "/proc/self/mounts").stdout
    assert lab.run("find", "/sys/fs/cgroup", "-name", "*hybrid*").stdout == ""


def test_systemd_has_no_failed_unit(lab: Lab) -> None:
    assert lab.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
