"""What processes and files cost the host, read from the kernel. Processes that end meanwhile count nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_CPU_CLOCK = 2
"""The clock of scheduled time in a clock id made of a pid (CPUCLOCK_SCHED)."""
_FIELDS = {"Pss": 0, "Private_Clean": 1, "Private_Dirty": 1, "Private_Hugetlb": 1}


def memory(pids: Iterable[int]) -> tuple[int, int]:
    """Proportional set size and private memory of processes, in bytes, each summed."""
    totals = [0, 0]
    for pid in pids:
        for line in _lines(pid, "smaps_rollup"):
            name, _, rest = line.partition(":")
            if name in _FIELDS:
                totals[_FIELDS[name]] += int(rest.split()[0]) * 1024
    return totals[0], totals[1]


def cpu_seconds(pid: int) -> float:
    """CPU time of a living process until now, its ended children left out; to the nanosecond."""
    try:
        return time.clock_gettime((~pid << 3) | _CPU_CLOCK)
    except OSError:
        return 0.0


def children_cpu_seconds(pid: int) -> float:
    """CPU time of the ended children that a living process has waited for; to the clock tick."""
    for line in _lines(pid, "stat"):
        fields = line.rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def disk_bytes(path: Path) -> int:
    """Allocated blocks of a file or of a whole tree, in bytes; a hard-linked file counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for status in _statuses(os.fspath(path)):
        if status.st_nlink > 1:
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        total += status.st_blocks * 512
    return total


def descendants(pid: int) -> set[int]:
    """The living processes below a process, itself left out."""
    children: dict[int, set[int]] = {}
    for child in processes():
        if (parent := _parent(child)) is not None:
            children.setdefault(parent, set()).add(child)
    found: set[int] = set()
    left = {pid}
    while left:
        left = set().union(*(children.get(parent, set()) for parent in left)) - found
        found |= left
    return found


def children() -> set[int]:
    """The children of this process, ended ones that nobody has waited for among them."""
    try:
        lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    except FileNotFoundError:  # a thread has ended meanwhile
        return children()
    return {int(pid) for each in lists for pid in each.split()}


def processes() -> Iterator[int]:
    """Every process that this process sees."""
    with os.scandir("/proc") as entries:
        yield from [int(entry.name) for entry in entries if entry.name.isdecimal()]


def _parent(pid: int) -> int | None:
    for line in _lines(pid, "stat"):
        state, parent = line.rpartition(")")[2].split()[:2]
        return None if state in "ZX" else int(parent)
    return None


def _lines(pid: int, name: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _statuses(root: str) -> Iterator[os.stat_result]:
    left = [root]
    while left:
        path = left.pop()
        try:
            yield (status := os.lstat(path))
            if (status.st_mode & 0o170000) == 0o040000:
                left += [entry.path for entry in os.scandir(path)]
        except (FileNotFoundError, NotADirectoryError):
            continue
