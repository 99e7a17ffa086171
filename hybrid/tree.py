"""Looking into an image's tree from outside, as a process whose root it is would.

The tree is anybody's: every symbolic link is resolved inside it, loops end, and no file is read
that is not a regular one of bounded size.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from hybrid.errors import CommandError

MAX_LINKS = 40
"""As many symbolic links as the kernel follows in one path."""


def resolve(root: Path, path: str, cwd: str = "/") -> str:
    """The absolute path, inside the tree, that `path` names once every link is followed.

    FileNotFoundError, NotADirectoryError, or OSError(ELOOP), as the kernel would raise.
    """
    parts = _parts(path if path.startswith("/") else f"{cwd}/{path}")
    done: list[str] = []
    links = 0
    while parts:
        part = parts.popleft()
        if part == ".":
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        mode = here.lstat().st_mode
        if stat.S_ISLNK(mode):
            links += 1
            if links > MAX_LINKS:
                raise OSError(40, "Too many levels of symbolic links", path)
            target = str(here.readlink())
            done = [] if target.startswith("/") else done
            parts.extendleft(reversed(_parts(target)))
            continue
        if parts and not stat.S_ISDIR(mode):
            raise NotADirectoryError(20, "Not a directory", path)
        done.append(part)
    return "/" + "/".join(done)


def _parts(path: str) -> deque[str]:
    return deque(part for part in path.split("/") if part)


def inside(root: Path, path: str) -> Path:
    """Where on the host a resolved path of the tree is."""
    return root / path.lstrip("/")


def read_text(root: Path, path: str, limit: int) -> str:
    """The first `limit` bytes of a regular file in the tree; empty when there is none."""
    try:
        found = inside(root, resolve(root, path))
        if not stat.S_ISREG(found.lstat().st_mode):
            return ""
        with found.open("rb") as file:
            return file.read(limit).decode(errors="replace")
    except (OSError, ValueError):
        return ""


def executable(root: Path, name: str, path: str, cwd: str, uid: int, groups: Sequence[int]) -> str:
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
        found = inside(root, resolve(root, candidate)).stat()
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
    """A script whose interpreter is missing fails like a missing program, and nobody sees why."""
    line = read_text(root, candidate, 256).split("\n", 1)[0]
    words = line[2:].split(maxsplit=1) if line.startswith("#!") else []
    if not words or not words[0].startswith("/"):
        return
    try:
        resolve(root, words[0])
    except (OSError, ValueError):
        raise CommandError(
            f"{name!r} needs {words[0]}, which is not in the image",
            exit_code=127,
            mend="add the interpreter to the image, or run a program that needs none",
        ) from None
