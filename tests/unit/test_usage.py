"""What processes and files cost."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from hybrid import evidence, process, usage
from hybrid.errors import InstanceError

GONE = 2**22 - 1


def test_memory_is_that_of_the_kernel() -> None:
    pss, private = usage.memory([os.getpid()])
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (seen,) = (int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    assert abs(pss - seen) < 4 << 20
    assert 0 < private <= pss


def test_memory_that_a_process_takes_is_counted() -> None:
    script = "data = b'x' * (32 << 20); print(len(data), flush=True); input()"
    with process.spawn([sys.executable, "-c", script], stdin=process.PIPE, stdout=process.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert usage.memory([child.pid])[1] > 32 << 20


def test_cpu_seconds_of_another_process() -> None:
    script = "import time\nwhile time.process_time() < 0.05: pass\nprint(flush=True); input()"
    with process.spawn([sys.executable, "-c", script], stdin=process.PIPE, stdout=process.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert usage.cpu_seconds(child.pid) >= 0.05
    assert abs(usage.cpu_seconds(os.getpid()) - time.process_time()) < 0.05


def test_what_has_ended_costs_nothing() -> None:
    assert usage.memory([GONE]) == (0, 0)
    assert usage.cpu_seconds(GONE) == 0.0
    assert usage.children_cpu_seconds(GONE) == 0.0
    assert usage.descendants(GONE) == set()


def test_descendants() -> None:
    with process.spawn(["sh", "-c", "sleep 100 & echo; wait"], stdout=process.PIPE, new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        below = usage.descendants(child.pid)
        assert len(below) == 1
        assert below < usage.descendants(os.getpid())
        for pid in below:
            process.send_signal(pid, process.start_time(pid))


def test_disk_bytes(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(100_000))
    os.sync()
    once = usage.disk_bytes(tmp_path)
    assert once >= 100_000
    os.link(tmp_path / "data", tmp_path / "link")
    assert usage.disk_bytes(tmp_path) == once
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    assert usage.disk_bytes(tmp_path) < once + (1 << 20)
    (tmp_path / "loop").symlink_to("loop")
    assert usage.disk_bytes(tmp_path) < once + (1 << 20)
    assert usage.disk_bytes(tmp_path / "none") == 0


def test_evidence_of_this_host() -> None:
    seen = evidence.of_host()
    assert seen.kernel_release == os.uname().release
    assert seen.boot_id == evidence.boot_id()
    assert seen.namespaces["mnt"] == os.readlink("/proc/self/ns/mnt")  # noqa: PTH115
    with pytest.raises(InstanceError):
        evidence.of_process(GONE)
    assert evidence.confinement(GONE) == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [('A=1\nPRETTY_NAME="Debian 12"\n', "Debian 12"), ("PRETTY_NAME=Tiny\n", "Tiny"), ("", ""), ("\0\xff", "")],
)
def test_os_name(text: str, name: str) -> None:
    assert evidence.os_name(text) == name
