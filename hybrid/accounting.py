"""What a control group and a network namespace have used, in files that are cheap to read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hybrid import usage
from hybrid.cgroups import Cgroup
from hybrid.driver import Stats

_UNLIMITED = 1 << 62
"""v1 tells that there is no limit by one that no machine reaches."""


def stats(group: Cgroup, pid: int) -> Stats:
    """What the group uses now, and the traffic of the network that process `pid` of it has for its own."""
    received, sent = traffic(pid)
    read, written = _block_bytes(group)
    memory, limit = _memory(group)
    return Stats(
        cpu_seconds=group.cpu_seconds(),
        memory_bytes=memory,
        memory_limit=limit,
        processes=len(group.pids()),
        received_bytes=received,
        sent_bytes=sent,
        read_bytes=read,
        written_bytes=written,
    )


def oom_killed(group: Cgroup) -> bool:
    """Whether the kernel ended a process of the group, or below it, for want of memory."""
    name = "memory.events" if group.tree.unified else "memory.oom_control"
    return _fields(group, "memory", name).get("oom_kill", 0) > 0


def traffic(pid: int) -> tuple[int, int]:
    """Bytes received and sent by a process's network namespace, loopback left out; 0 if it has the host's."""
    received = sent = 0
    with contextlib.suppress(OSError, ValueError):
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):  # noqa: PTH115
            return 0, 0
        for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]:
            name, _, rest = line.partition(":")
            if name.strip() != "lo":
                received += int(rest.split()[0])
                sent += int(rest.split()[8])
    return received, sent


def _memory(group: Cgroup) -> tuple[int, int | None]:
    """Bytes that count against the limit, less the file cache that is dropped first; the limit."""
    if not group.tree.usable:  # then nothing is limited, and what the processes hold is to be had from themselves
        return usage.memory(group.pids())[0], None
    if group.tree.unified:
        used, limit, inactive = "memory.current", "memory.max", "inactive_file"
    else:
        used, limit, inactive = "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"
    bound = _number(group, "memory", limit)
    cache = _fields(group, "memory", "memory.stat").get(inactive, 0)
    total = _number(group, "memory", used) or 0
    return max(0, total - cache), None if bound is None or bound >= _UNLIMITED else bound


def _block_bytes(group: Cgroup) -> tuple[int, int]:
    """Read and written, over all devices."""
    read = written = 0
    if not group.tree.usable:
        return usage.block_bytes(group.pids())
    if group.tree.unified:
        for line in _text(group, "io", "io.stat").splitlines():
            values = dict(word.split("=", 1) for word in line.split()[1:] if "=" in word)
            read, written = read + int(values.get("rbytes", 0)), written + int(values.get("wbytes", 0))
        return read, written
    text = _text(group, "blkio", "blkio.throttle.io_service_bytes_recursive")
    for line in (text or _text(group, "blkio", "blkio.throttle.io_service_bytes")).splitlines():
        words = line.split()
        if len(words) == 3:
            read += int(words[2]) if words[1] == "Read" else 0
            written += int(words[2]) if words[1] == "Write" else 0
    return read, written


def _number(group: Cgroup, controller: str, name: str) -> int | None:
    text = _text(group, controller, name).strip()
    return int(text) if text.isdecimal() else None


def _fields(group: Cgroup, controller: str, name: str) -> dict[str, int]:
    lines = (line.split() for line in _text(group, controller, name).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdecimal()}


def _text(group: Cgroup, controller: str, name: str) -> str:
    """A file of the group; empty when the host does not count that."""
    root = group.tree.unified or group.tree.v1.get(controller)
    with contextlib.suppress(OSError):
        return (root / group.path[1:] / name).read_text() if root else ""
    return ""
