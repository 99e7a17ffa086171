"""Looking into an image's tree from outside, as a process whose root it is would.

The tree is anybody's: every symbolic link is resolved inside it, loops end, and no file is read
that is not a regular one of bounded size.
"""

from __future__ import annotations

import stat
from collections import deque
from pathlib import Path

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


def read(root: Path, path: str, limit: int) -> bytes:
    """The first `limit` bytes of a regular file in the tree; empty when there is none."""
    try:
        found = inside(root, resolve(root, path))
        if not stat.S_ISREG(found.lstat().st_mode):
            return b""
        with found.open("rb") as file:
            return file.read(limit)
    except (OSError, ValueError):
        return b""
