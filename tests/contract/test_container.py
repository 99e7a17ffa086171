"""What only containers promise: Docker's defaults, limits, any runtime, and nothing on the host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hybrid import cgroups, process
from hybrid.driver import Stdio
from hybrid.errors import HybridError

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

TIMEOUT = 60.0


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest) -> str:
    if process.find(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def test_every_runtime_runs_it(container: Bench, runtime: str) -> None:
    script = "echo out; echo err >&2; exit 7"
    result = container.run("sh", "-c", script, container={"runtime": runtime})
    assert (result.code, result.out, result.err) == (7, b"out\n", b"err\n")
    instance = container.make("sh", "-c", script, container={"runtime": runtime})
    instance.start(None)
    instance.wait_entrypoint(TIMEOUT)
    assert instance.wait(TIMEOUT) == 7


def test_a_runtime_that_is_not_there(container: Bench) -> None:
    with pytest.raises(HybridError, match="nosuchrun"):
        container.make("true", container={"runtime": "nosuchrun"})


def test_without_a_user_namespace(container: Bench, runtime: str) -> None:
    options = {"runtime": runtime, "userns": False}
    result = container.run("sh", "-c", "cut -c1-60 /proc/self/uid_map; touch /root/x", container=options)
    assert result.out.split() == [b"0", b"0", b"4294967295"]
    layer = container.made[-1].record.directory / "layer/upper/root/x"
    assert layer.stat().st_uid == 0


@pytest.mark.parametrize("userns", [True, False])
@pytest.mark.parametrize("how", ["without input", "given", "detached"])
def test_the_hosts_null_device_is_not_its_to_change(container: Bench, runtime: str, how: str, userns: bool) -> None:
    """By its name, by a stream, or by those of its healthcheck."""
    change = "chmod 640 /dev/null /proc/self/fd/0 /proc/self/fd/1; chown 7 /dev/null /proc/self/fd/0"
    check = {"test": ["CMD-SHELL", f"{change}; true"]}
    keys = {"container": {"runtime": runtime, "userns": userns}, "healthcheck": check}
    host = Path(os.devnull)
    before = host.stat()
    instance = container.make("sh", "-c", f"{change}; [ -c /dev/null ] && sleep 1000", **keys)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        streams = {"without input": Stdio(-1, null, null), "given": Stdio(null, null, null), "detached": None}
        instance.start(streams[how])
        instance.wait_ready(TIMEOUT)
        after = host.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
        instance.stop(0)
    finally:
        os.close(null)
        host.chmod(before.st_mode & 0o7777)
        os.chown(host, before.st_uid, before.st_gid)


def test_limits_are_those_of_the_spec(container: Bench, runtime: str) -> None:
    if cgroups.tree().unified is not None:
        script = "cd /sys/fs/cgroup; cat cpu.max memory.max pids.max"
    else:
        script = "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes pids/pids.max"
    limits: dict[str, Any] = {"cpus": 0.5, "mem_limit": "64m", "pids_limit": 50}
    words = container.run("sh", "-c", script, **limits, container={"runtime": runtime}).out.split()
    assert words[0] == b"50000"
    assert words[-2:] == [str(64 << 20).encode(), b"50"]


def test_memory_is_bounded(container: Bench) -> None:
    result = container.run("sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1", mem_limit="32m")
    assert result.code == 137


def test_what_docker_refuses_is_refused(container: Bench) -> None:
    script = """
    unshare -U true; mount -t tmpfs none /tmp; mknod /tmp/x b 7 0 && cat /tmp/x
    echo 1 >/proc/sys/kernel/sysrq; cat /proc/kcore; ls /sys/firmware/* ; touch /sys/x
    grep NoNewPrivs /proc/self/status
    """
    result = container.run("sh", "-c", script)
    assert result.out.split() == [b"NoNewPrivs:", b"1"]
    assert len(result.err.splitlines()) >= 6


def test_root_in_the_container_is_nobody_on_the_host(container: Bench) -> None:
    with container.attached("sh", "-c", "touch /root/mine; while :; do sleep 0.05; done") as (instance, _):
        instance.wait_ready(TIMEOUT)
        pid = instance.status().pid
        assert Path(f"/proc/{pid}").stat().st_uid >= 100_000
    tree = container.image.tree
    assert (tree / "etc/passwd").stat().st_uid == 0


def test_no_mount_is_seen_on_the_host(container: Bench) -> None:
    with container.attached("sh", "-c", "while :; do sleep 0.05; done") as (instance, _):
        instance.wait_ready(TIMEOUT)
        assert str(instance.record.directory) not in Path("/proc/self/mounts").read_text()
        inside = Path(f"/proc/{instance.status().pid}/mounts").read_text()
        assert str(container.home.root) not in inside.partition("\n")[0]


def test_a_directory_full_of_oddities_is_removed(container: Bench) -> None:
    deep = "i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done"
    script = (
        f"cd /root; {deep}; cd /root; mkdir closed; touch closed/x; chmod 0 closed; touch ./-rf \"$(printf 'a\\nb')\""
    )
    instance = container.make("sh", "-c", script)
    instance.start(None)
    instance.wait_entrypoint(TIMEOUT)
    assert instance.wait(TIMEOUT) == 0
    upper = instance.record.directory / "layer/upper"
    process.run(["chattr", "+i", upper / "root/closed/x"])
    instance.destroy()
    assert not instance.record.directory.exists()


def test_a_container_of_a_home_that_it_cannot_reach(container: Bench, tmp_path: Path) -> None:
    from container.driver import ContainerDriver
    from hybrid.home import Home

    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    driver = ContainerDriver(Home(closed / "home", container.home.run))
    with pytest.raises(HybridError, match="cannot reach"):
        driver.create(container.request("true"))
    assert not (closed / "home").exists()


def test_an_inherited_descriptor_does_not_reach_the_command(container: Bench) -> None:
    reads, writes = os.pipe()
    os.set_inheritable(writes, True)
    try:
        assert b"pipe" not in container.run("ls", "-l", "/proc/self/fd").out.replace(b"0 -> pipe", b"")
    finally:
        os.close(reads)
        os.close(writes)
