"""The main job under real KVM, systemd and cgroup v2, on a machine that only the role `host` made ready."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab.machine import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(2400)]  # the first one builds the disk, and boots it

KINDS = ("host", "container", "vm")


@pytest.fixture(scope="module")
def compared(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of comparing all kinds there; kept as result.json with what pytest keeps."""
    command = ("hybrid", "compare", "/lab/web.yaml", "--as", ",".join(KINDS), "--runs", "2", "--warmup", "0")
    seen = lab.run(*command, "--format", "json", "--output", "/tmp/result", timeout=400)
    assert seen.exit_code == 0, seen.stderr
    (tmp_path_factory.mktemp("lab") / "result.json").write_text(seen.stdout)
    result: dict[str, Any] = json.loads(seen.stdout)
    return result


def test_doctor_finds_kvm_and_cgroup_v2(lab: Lab) -> None:
    seen = lab.run("hybrid", "doctor", "--json")
    assert seen.exit_code == 0, seen
    report = json.loads(seen.stdout)
    assert report["kinds"]["vm"]["facts"]["accelerator"] == "kvm"
    assert report["host"]["cgroups"] == "v2"


@pytest.mark.parametrize("kind", KINDS)
def test_every_trial_of_a_kind_is_measured(compared: dict[str, Any], kind: str) -> None:
    found = compared["kinds"][kind]
    assert (found["measured"], found["failures"]) == (2, [])
    assert {"boot", "ready", "phase.stop", "phase.gone"} <= found["metrics"].keys()


def test_says_what_it_measured_on(compared: dict[str, Any]) -> None:
    kinds = compared["kinds"]
    assert compared["machine"]["cgroups"] == "v2"
    assert kinds["vm"]["accelerator"] == "kvm"
    host, container, vm = (kinds[kind]["evidence"]["boot_id"] for kind in KINDS)
    assert container == host != vm


@pytest.mark.usefixtures("compared")
def test_leaves_nothing_behind(lab: Lab) -> None:
    assert json.loads(lab.run("hybrid", "ps", "--all", "--format", "json").stdout) == []
    assert lab.run("find", "/var/lib/hybrid/instances", "-mindepth", "1", "-not", "-name", ".lock").stdout == ""
    assert lab.run("pgrep", "-a", "qemu|crun|runc|conmon|busybox").stdout == ""
    assert "hybrid" not in lab.run("cat", "/proc/self/mounts").stdout
    assert lab.run("find", "/sys/fs/cgroup", "-name", "*hybrid*").stdout == ""


@pytest.mark.usefixtures("compared")
def test_fails_no_unit_of_systemd(lab: Lab) -> None:
    assert lab.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
