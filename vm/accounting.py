"""What a running VM uses, as the host counts it: its control group, its QEMU, its taps."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from hybrid import accounting, network
from hybrid.cgroups import Cgroup
from hybrid.driver import Stats
from hybrid.store import Record


def of_vm(record: Record, pid: int) -> Stats:
    """See `hybrid.driver.Stats`. Memory is bounded by what the guest was given, besides what QEMU needs itself."""
    received, sent = _traffic(record)
    read, written = _storage(pid)
    counted = accounting.stats(Cgroup(record.id), pid)
    return replace(
        counted,
        memory_bytes=counted.memory_bytes or _resident(pid),
        memory_limit=record.engine["memory"],
        received_bytes=received,
        sent_bytes=sent,
        read_bytes=read,
        written_bytes=written,
    )


def _traffic(record: Record) -> tuple[int, int]:
    """Received and sent by the guest: what its taps have sent and received."""
    received = sent = 0
    for interface in network.of(record).interfaces:
        counters = Path(f"/sys/class/net/{interface.link}/statistics")
        with contextlib.suppress(OSError, ValueError):
            received += int((counters / "tx_bytes").read_text())
            sent += int((counters / "rx_bytes").read_text())
    return received, sent


def _storage(pid: int) -> tuple[int, int]:
    """Bytes that QEMU has had read from and written to storage."""
    values = dict(line.split(": ", 1) for line in _text(f"/proc/{pid}/io").splitlines() if ": " in line)
    return int(values.get("read_bytes", 0)), int(values.get("write_bytes", 0))


def _resident(pid: int) -> int:
    """For hosts that count no group's memory."""
    fields = _text(f"/proc/{pid}/statm").split()
    return int(fields[1]) * 4096 if len(fields) > 1 else 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
