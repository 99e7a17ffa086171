"""Looking into an image's tree from outside, as a process whose root it is would.

The tree is anybody's: the kernel resolves every link inside it, and only regular files are read, up to a limit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybrid.inroot import open_in


def status(root: Path, path: str) -> os.stat_result:
    """What the absolute `path` names in the tree, links followed; OSError or ValueError as stat(2) has it."""
    with _opened(root, path, os.O_PATH) as descriptor:
        return os.fstat(descriptor)


def read(root: Path, path: str, limit: int) -> bytes:
    """The first `limit` bytes of a regular file in the tree; empty when there is none that can be read."""
    try:
        if not stat.S_ISREG(status(root, path).st_mode):
            return b""
        with (
            _opened(root, path, os.O_RDONLY | os.O_NONBLOCK) as descriptor,
            os.fdopen(os.dup(descriptor), "rb") as file,
        ):
            return file.read(limit)
    except (OSError, ValueError):
        return b""


@contextmanager
def _opened(root: Path, path: str, flags: int) -> Iterator[int]:
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_in(directory, path, flags | os.O_CLOEXEC)
    finally:
        os.close(directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
