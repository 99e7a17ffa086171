"""Which commands are an init, and what a container has for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from container import init
from hybrid.cgroups import Cgroup, Tree
from hybrid.errors import HostError
from hybrid.image import Process

V1 = Tree(None, {"cpu": Path("/cg/cpu"), "name=systemd": Path("/cg/systemd")})
V2 = Tree(Path("/cg"), {})
MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "options": ["nosuid"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["nosuid", "ro"]},
    {"destination": "/etc/hosts", "type": "bind", "options": []},
]


def command(executable: str) -> Process:
    return Process((executable,), executable, {}, "/", 0, 0, (), "box", 15, 10.0, None)


@pytest.mark.parametrize(
    ("executable", "is_init"),
    [
        ("/sbin/init", True),
        ("/usr/sbin/init", True),
        ("/lib/systemd/systemd", True),
        ("/opt/init", False),
        ("/bin/systemd-run", False),
    ],
)
def test_the_commands_name_decides(executable: str, is_init: bool) -> None:
    assert init.is_init(command(executable)) is is_init


def test_v1_gives_the_group_of_the_hierarchy_without_controllers() -> None:
    found = init.with_init(MOUNTS, Cgroup("1", V1))
    assert [mount["destination"] for mount in found] == [
        *("/proc", "/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/etc/hosts", "/run", "/run/lock", "/tmp")
    ]
    assert (found[1], found[2]["source"]) == (MOUNTS[1], "/cg/systemd/hybrid-1")
    assert "rw" in found[2]["options"]


def test_v2_gives_the_whole_group() -> None:
    found = init.with_init(MOUNTS, Cgroup("1", V2))
    assert found[1]["options"] == ["nosuid"]
    assert MOUNTS[1]["options"] == ["nosuid", "ro"]
    assert [mount["destination"] for mount in found[-3:]] == ["/run", "/run/lock", "/tmp"]


def test_a_host_without_either_says_so() -> None:
    init.check(V1)
    init.check(V2)
    with pytest.raises(HostError, match="name=systemd"):
        init.check(Tree(None, {"cpu": Path("/cg/cpu")}))
