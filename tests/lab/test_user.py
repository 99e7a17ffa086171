"""The main things as an ordinary user under systemd: real KVM by the group kvm, limits by delegated control groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.disk import USER
from tests.lab.machine import Lab, Result

pytestmark = [pytest.mark.lab, pytest.mark.timeout(2400)]

KINDS = ("host", "container", "vm")
SCOPE = "app.slice/hybrid.scope"


@pytest.fixture
def hybrid(lab: Lab) -> Callable[..., Result]:
    """Runs `hybrid` as the ordinary user; its exit code must be the one given."""
    uid = lab.run("id", "-u", USER).stdout.strip()
    enter = ("setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "--reset-env")

    def run(*words: str, code: int = 0) -> Result:
        seen = lab.run(
            "env", "-C", "/", *enter, "env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "hybrid", *words, timeout=300
        )
        assert seen.exit_code == code, seen
        return seen

    return run


def group_files(lab: Lab, *names: str) -> list[str]:
    """What these files of the one instance's control group say."""
    found = lab.run("find", "/sys/fs/cgroup/user.slice", "-path", f"*/{SCOPE}/hybrid-*", "-type", "d").stdout.split()
    assert len(found) == 1, found
    return [lab.run("cat", f"{found[0]}/{name}").stdout.strip() for name in names]


def test_doctor_finds_kvm_and_delegated_groups(hybrid: Callable[..., Result]) -> None:
    report = json.loads(hybrid("doctor", "--json").stdout)
    assert report["kinds"]["vm"]["facts"]["accelerator"] == "kvm"
    assert report["kinds"]["container"]["facts"]["cgroups"] == "v2"
    assert report["kinds"]["container"]["warnings"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_runs_a_command_and_returns_its_exit_code(hybrid: Callable[..., Result], kind: str) -> None:
    script = "busybox id -u; busybox ls -ln /www/index.html; exit 7"
    seen = hybrid("run", "--rm", "--as", kind, "/lab/web.yaml", "--", "/bin/busybox", "sh", "-c", script, code=7)
    assert seen.stdout.splitlines()[0] == "0"


@pytest.mark.parametrize("kind", ("container", "vm"))
def test_limits_hold_and_later_commands_find_the_instance(lab: Lab, hybrid: Callable[..., Result], kind: str) -> None:
    hybrid("run", "-d", "--name", "web", "--as", kind, "/lab/web.yaml")
    try:
        rows: list[dict[str, Any]] = json.loads(hybrid("ps", "--format", "json").stdout)
        assert [(row["name"], row["state"]) for row in rows] == [("web", "running")]
        cpus, memory = group_files(lab, "cpu.max", "memory.max")
        assert cpus == "100000 100000"
        assert memory == (str(192 << 20) if kind == "container" else "max")  # a guest's memory is its machine's
    finally:
        hybrid("rm", "-f", "web")


@pytest.mark.usefixtures("hybrid")
def test_nothing_of_the_user_is_left(lab: Lab) -> None:
    assert lab.run("pgrep", "-a", "-U", USER, "qemu|crun|conmon|busybox|slirp|sleep|python").stdout == ""
    assert lab.run("find", "/sys/fs/cgroup", "-name", "hybrid*").stdout == ""
    assert "hybrid" not in lab.run("cat", "/proc/self/mounts").stdout
    assert lab.run("systemctl", "--user", "-M", f"{USER}@", "--failed", "--plain", "--no-legend").stdout == ""
