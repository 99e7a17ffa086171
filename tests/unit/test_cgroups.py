"""Control groups: every layout of hosts, on trees of plain files, and the real ones of this host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybrid import cgroups, process
from hybrid.cgroups import Cgroup, Tree, read_tree
from hybrid.errors import HostError
from hybrid.store import new_id

V1 = """
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,name=systemd 0 0
""".strip()
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev 0 0"


def test_layouts() -> None:
    assert read_tree(V2) == Tree(Path("/sys/fs/cgroup"), {})
    old = read_tree(V1)
    assert old.unified is None
    assert old.v1["cpu"] == old.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert old.v1["name=systemd"] == Path("/sys/fs/cgroup/systemd")
    hybrid = read_tree(V1 + "\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0")
    assert hybrid.unified is None and hybrid.idle == Path("/sys/fs/cgroup/unified")
    assert [each.version for each in (read_tree(V2), old, hybrid, read_tree(""))] == [
        *("v2", "v1", "v1, v2 beside it", "none")
    ]
    systemd_only = "cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n" + V2
    assert read_tree(systemd_only).version == "v2"


def test_v2_files(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    group = Cgroup("x", Tree(tmp_path, {}))
    group.create()
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +pids"
    own = tmp_path / "hybrid-x"
    group.limit(cpus=1.5, memory=64 << 20, pids=7)
    assert (own / "cpu.max").read_text() == "150000 100000"
    assert (own / "memory.max").read_text() == str(64 << 20)
    assert (own / "pids.max").read_text() == "7"
    (own / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    assert group.cpu_seconds() == 2.5
    group.add(42)
    assert group.pids() == {42}


def test_v1_files(tmp_path: Path) -> None:
    both, memory = tmp_path / "cpu,cpuacct", tmp_path / "memory"
    for root in (both, memory):
        root.mkdir()
    (memory / "memory.memsw.limit_in_bytes").touch()
    group = Cgroup("x", Tree(None, {"cpu": both, "cpuacct": both, "memory": memory}))
    group.create()
    group.limit(cpus=0.25, memory=1 << 30)
    assert (both / "hybrid-x/cpu.cfs_quota_us").read_text() == "25000"
    assert (memory / "hybrid-x/memory.limit_in_bytes").read_text() == str(1 << 30)
    assert (memory / "hybrid-x/memory.memsw.limit_in_bytes").read_text() == str(1 << 30)
    (both / "hybrid-x/cpuacct.usage").write_text("1500000000\n")
    assert group.cpu_seconds() == 1.5
    with pytest.raises(HostError, match="limit pids"):
        group.limit(pids=3)


def test_a_group_that_is_not_there() -> None:
    group = Cgroup(new_id())
    assert not group.exists()
    assert group.pids() == set()
    assert group.cpu_seconds() == 0.0
    group.kill()
    group.remove()


def test_kill_misses_nobody() -> None:
    """A process that makes children as fast as it can, in a real group."""
    if os.geteuid() != 0 or cgroups.tree().version == "none":
        pytest.skip("control groups need root, and a mounted tree")
    group = Cgroup(new_id())
    group.create()
    try:
        script = "while :; do (sleep 100 &) ; done"
        child = process.launch(["sh", "-c", script], setup=lambda: group.add(0))
        while len(group.pids()) < 20:
            os.sched_yield()
        group.kill(spare=child.pid)
        assert group.pids() == set()
        assert group.cpu_seconds() > 0
        process.reap(child)
    finally:
        group.kill()
        group.remove()
    assert not group.exists()
