"""A guest's processes, from what vm/init/inside.c tells of /proc: the guest's word, read with bounds."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hybrid.driver import InsideProcess

_TICKS = 100.0
"""A second of /proc, on every Linux for x86."""
_PAGE = 4096


def parse(told: bytes) -> list[InsideProcess]:
    """Every process that can be understood, by pid."""
    return sorted(_processes(told), key=lambda process: process.pid)


def _processes(told: bytes) -> Iterator[InsideProcess]:
    while told:
        line, _, told = told.partition(b"\n")
        try:
            pid, _, *lengths = map(int, line.split())
            a, b, c = lengths
        except ValueError:
            return
        if min(a, b, c) < 0 or a + b + c > len(told):
            return
        stat, arguments, user, told = told[:a], told[a : a + b], told[a + b : a + b + c], told[a + b + c :]
        if (process := _process(pid, stat, arguments, user)) is not None:
            yield process


def _process(pid: int, stat: bytes, arguments: bytes, user: bytes) -> InsideProcess | None:
    head, _, tail = stat.rpartition(b")")
    fields = tail.split()
    try:
        parent, cpu, start, pages = int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]), int(fields[21])
    except (ValueError, IndexError):
        return None
    name = os.fsdecode(head.partition(b"(")[2])
    words = " ".join(os.fsdecode(word) for word in arguments.rstrip(b"\0").split(b"\0") if word)
    return InsideProcess(
        pid, parent, os.fsdecode(user), start / _TICKS, cpu / _TICKS, pages * _PAGE, words or f"[{name}]"
    )
