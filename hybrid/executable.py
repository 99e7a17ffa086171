"""Finding the program that a command names, in the image and before anything is started.

Each way in which execve(2) would fail is told apart here, for every kind alike, with Docker's exit codes.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from hybrid import tree
from hybrid.errors import CommandError

_HEAD = 64 * 1024
_PT_INTERP = 3


def find(root: Path, name: str, path: str, cwd: str, uid: int, groups: Sequence[int]) -> str:
    """The absolute path, inside the tree, of the program `name`, looked up in `path` (PATH) as execvp does.

    The path is not resolved further than that: a program may look at the name it was called by.
    CommandError 127 when it is not there, 126 when it is and cannot be executed.
    """
    if "/" in name:
        candidate = name if name.startswith("/") else f"{cwd.rstrip('/')}/{name}"
        _check(root, name, candidate, uid, groups)
        return candidate
    refused: CommandError | None = None
    for directory in path.split(":"):
        whole = directory if directory.startswith("/") else f"{cwd}/{directory}"
        candidate = f"{whole.rstrip('/')}/{name}"
        try:
            _check(root, name, candidate, uid, groups)
            return candidate
        except CommandError as error:
            refused = refused or (error if error.exit_code == 126 else None)
    raise refused or CommandError(
        f"{name!r} is not in the image (looked in {path})",
        exit_code=127,
        mend="check its name, or add the package that brings it",
    )


def _check(root: Path, name: str, candidate: str, uid: int, groups: Sequence[int]) -> None:
    try:
        found = tree.status(root, candidate)
    except (OSError, ValueError) as error:
        why = f": {error.strerror}" if isinstance(error, OSError) and error.errno not in (2, 20) else ""
        raise CommandError(
            f"{name!r} is not in the image{why}", exit_code=127, mend="check the path as seen inside the image"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        kind = "directory" if stat.S_ISDIR(found.st_mode) else "special file"
        raise CommandError(f"{name!r} is a {kind} in the image", exit_code=126, mend="name a program")
    if not _may_execute(found, uid, groups):
        raise CommandError(
            f"{name!r} may not be executed by uid {uid} (mode {stat.S_IMODE(found.st_mode):04o})",
            exit_code=126,
            mend="chmod +x it in the image, or run it through its interpreter",
        )
    _check_interpreter(root, name, candidate)


def _may_execute(found: os.stat_result, uid: int, groups: Sequence[int]) -> bool:
    if uid == 0:
        return bool(found.st_mode & 0o111)
    if uid == found.st_uid:
        return bool(found.st_mode & 0o100)
    return bool(found.st_mode & (0o010 if found.st_gid in groups else 0o001))


def _check_interpreter(root: Path, name: str, candidate: str) -> None:
    """A program whose interpreter or dynamic loader is missing fails like a missing program, and nobody sees why."""
    interpreter = _interpreter(tree.read(root, candidate, _HEAD))
    if not interpreter.startswith("/"):
        return
    try:
        tree.status(root, interpreter)
    except (OSError, ValueError):
        raise CommandError(
            f"{name!r} needs {interpreter}, which is not in the image",
            exit_code=127,
            mend="add it to the image, or use a static program or another interpreter",
        ) from None


def _interpreter(head: bytes) -> str:
    """What the kernel runs to run a file that starts with `head`: a script's interpreter, a program's loader."""
    if head.startswith(b"#!"):
        return (head[2:256].split(b"\n", 1)[0].split() or [b""])[0].decode(errors="replace")
    if not head.startswith(b"\x7fELF\x02\x01"):
        return ""
    try:
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        for number in range(count):
            kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", head, offset + number * size)
            if kind == _PT_INTERP:
                return head[start : start + min(length, 4096)].rstrip(b"\0").decode(errors="replace")
    except (struct.error, OverflowError):
        return ""  # not a program that the kernel would take: it says so itself
    return ""
