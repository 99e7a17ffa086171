"""Launchers whose own launcher was killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hybrid import usage
from hybrid.store import Record


def strays(record: Record) -> Iterator[int]:
    """Launchers of this instance whose own launcher was killed: known by its id and directory in their arguments."""
    wanted = (os.fsencode(record.id), os.fsencode(record.directory))
    for pid in usage.processes():
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            if pid != os.getpid() and all(word in arguments for word in wanted):
                yield pid
