"""What an instance may leave, and getting rid of it: any files, and launchers whose own launcher was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from hybrid import process, usage
from hybrid.errors import HybridError
from hybrid.store import Record


def remove_directory(directory: Path) -> None:
    """Remove an instance's directory: at first out of sight in one step, then what is in it."""
    hidden = directory.with_name(f".{directory.name}.{os.getpid()}-{time.monotonic_ns():x}")
    directory.rename(hidden)
    remove_tree(hidden)


def remove_tree(path: Path) -> None:
    """Remove a tree that an instance may have filled with anything: deep, immutable, of any owner."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(path)
    if path.exists():
        with contextlib.suppress(HybridError):
            process.run(["chattr", "-R", "-f", "-i", "-a", path])
        process.run(["rm", "-rf", "--one-file-system", path])


def strays(record: Record) -> Iterator[int]:
    """Launchers of this instance whose own launcher was killed: known by its id and directory in their arguments."""
    wanted = (os.fsencode(record.id), os.fsencode(record.directory))
    for pid in usage.processes():
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            if pid != os.getpid() and all(word in arguments for word in wanted):
                yield pid
