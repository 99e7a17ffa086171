"""Limits hold, and what they end is told, alike for the kinds that have them."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hybrid.driver import State

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

TIMEOUT = 120.0
UNLIKE_HOST = "the baseline has none of the spec's limits"

HOG = "echo up; a=0123456789abcdef; while :; do a=$a$a; done"
BOMB = """
(i=0; while [ $i -lt 40 ]; do sleep 30 & i=$((i + 1)); done) 2>/dev/null
set -- /proc/[0-9]*
echo $# processes
for path in /sys/fs/cgroup/pids.max /sys/fs/cgroup/*/pids.max; do
    [ -e $path ] && echo max >$path && echo lifted
done 2>/dev/null
"""
LIMITS = """
ulimit -n; ulimit -Hn; ulimit -c; df -k /dev/shm | tail -1
(echo x >/root/x) 2>&1; echo y >/tmp/y && cat /tmp/y
"""


@pytest.fixture
def limited(bench: Bench) -> Bench:
    if bench.kind in ("fake", "host"):
        pytest.skip(UNLIKE_HOST)
    return bench


def test_memory(limited: Bench) -> None:
    """A hog is killed inside and told as such, not lost, and also to who looks later."""
    with limited.attached("sh", "-c", HOG, mem_limit="128m") as (instance, result):
        assert result(instance).code == 137
    assert limited.again(instance).status().oom_killed
    assert limited.again(instance).status().state is State.EXITED


def test_memory_of_a_child(limited: Bench) -> None:
    """The command lives on when the kernel kills a child of it, and that is told while it runs."""
    script = f"sh -c '{HOG}'; echo child $?; sleep 1000"
    instance = limited.make("sh", "-c", script, mem_limit="128m")
    instance.start(None)
    deadline = time.monotonic() + TIMEOUT
    while not limited.again(instance).status().oom_killed and time.monotonic() < deadline:
        time.sleep(0.1)
    status = limited.again(instance).status()
    assert (status.state, status.oom_killed) == (State.RUNNING, True)
    instance.stop(0.1)
    assert limited.again(instance).status().oom_killed


def test_no_oom(limited: Bench) -> None:
    instance = limited.make("sh", "-c", "kill -9 $$; kill -9 1; exit 137", mem_limit="128m")
    instance.start(None)
    instance.wait_entrypoint(TIMEOUT)
    assert instance.wait(TIMEOUT) == 137
    assert not limited.again(instance).status().oom_killed


def test_cpus(limited: Bench) -> None:
    instance = limited.make("sh", "-c", "while :; do :; done", cpus=0.25)
    instance.start(None)
    instance.wait_entrypoint(TIMEOUT)
    first, since = instance.usage().cpu_seconds, time.monotonic()
    time.sleep(4)
    used, passed = instance.usage().cpu_seconds - first, time.monotonic() - since
    assert used < 0.25 * passed * 1.6
    instance.stop(0.1)


def test_processes(limited: Bench) -> None:
    result = limited.run("sh", "-c", BOMB, pids_limit=20)
    counted = re.search(r"(\d+) processes", result.out.decode())
    assert counted is not None and int(counted[1]) <= 21, result
    assert b"lifted" not in result.out


def test_ulimits_shm_and_a_read_only_root(limited: Bench) -> None:
    result = limited.run(
        *("sh", "-c", LIMITS),
        ulimits={"nofile": {"soft": 77, "hard": 88}, "core": 0},
        shm_size="3m",
        read_only=True,
        tmpfs=["/tmp"],
    )
    lines = result.out.decode().splitlines()
    assert lines[:3] == ["77", "88", "0"]
    assert lines[3].split()[1] == "3072"
    assert "Read-only file system" in lines[4]
    assert lines[5] == "y"


def test_block_io(limited: Bench) -> None:
    """Eight MiB at two a second take at least three seconds: a busy machine only makes it more."""
    number = limited.home.root.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not device.exists() or not Path("/dev", device.resolve().name).exists():
        pytest.skip("the home lies on no block device")
    rate = [{"path": f"/dev/{device.resolve().name}", "rate": "2m"}]
    script = "dd if=/dev/zero of=/root/big bs=1M count=8 oflag=direct 2>/dev/null && echo written"
    instance = limited.make("sh", "-c", script, blkio_config={"device_write_bps": rate})
    instance.start(None)
    instance.wait_entrypoint(TIMEOUT)
    began = time.monotonic()
    assert instance.wait(TIMEOUT) == 0
    assert time.monotonic() - began > 2.5
