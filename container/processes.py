"""The processes of an instance, from the host's /proc: each as the instance itself would see it.

A parent that is none of its own is 0, as it is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.driver import InsideProcess

if TYPE_CHECKING:
    from container.inside import Ids

_LIMIT = 65536
"""Bytes kept of a command line, which is the instance's and may be anything."""


def look(pids: Iterable[int], names: Mapping[int, str], ids: Ids, proc: Path = Path("/proc")) -> list[InsideProcess]:
    """Those of the processes that live, by pid; `names` are the instance's users by their ids."""
    found = {}
    for pid in pids:
        try:
            found[pid] = _read(proc / str(pid), names, ids)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    inner = {pid: process.pid for pid, (process, _) in found.items()}
    seen = (replace(process, parent=inner.get(parent, 0)) for process, parent in found.values())
    return sorted(seen, key=lambda process: process.pid)


def _read(directory: Path, names: Mapping[int, str], ids: Ids) -> tuple[InsideProcess, int]:
    """A process, and its parent's pid on the host."""
    fields = (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()
    status = _status((directory / "status").read_text(errors="replace"))
    words = (directory / "cmdline").read_bytes()[:_LIMIT].rstrip(b"\0").replace(b"\0", b" ")
    tick = os.sysconf("SC_CLK_TCK")
    user = ids.inside(int(status["Uid"].split()[1]))
    return InsideProcess(
        pid=int(status["NSpid"].split()[-1]),
        parent=0,
        user=names.get(user, str(user)),
        started=int(fields[19]) / tick,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / tick,
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        command=words.decode(errors="replace") or f"[{status['Name']}]",
    ), int(fields[1])


def _status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
