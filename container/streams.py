"""The caller's streams, lent to an OCI runtime: it gives what it gets to the container's root, devices too."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from hybrid.driver import Stdio
from hybrid.inroot import open_in
from hybrid.mounts import attach, clone, hide, mount

NULL = os.makedev(1, 3)
_MS_NOSUID = 2


class Lent:
    """What the caller's files and devices were like before a runtime got them.

    Pipes are let alone: a copy of a pipe's descriptor would keep it open. Terminals are, by the runtimes.
    """

    def __init__(self, stdio: Stdio) -> None:
        self._owners: list[tuple[int, int, int]] = []
        """Own descriptor, owner and group."""
        for descriptor in {stdio.stdin, stdio.stdout, stdio.stderr}:
            if descriptor >= 0 and not is_pipe(status := os.fstat(descriptor)):
                self._owners.append((os.dup(descriptor), status.st_uid, status.st_gid))

    def give_back(self) -> None:
        """Files go back to their owners. Idempotent."""
        while self._owners:
            descriptor, uid, gid = self._owners.pop()
            with suppress(OSError):
                if (found := os.fstat(descriptor)).st_uid != uid or found.st_gid != gid:
                    os.fchown(descriptor, uid, gid)
            os.close(descriptor)


def is_pipe(status: os.stat_result) -> bool:
    return stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)


def is_null(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == NULL


def without_null(stdio: Stdio, null: int) -> Stdio:
    """The streams, with `null` in the place of each that is the host's /dev/null or nothing."""

    def kept(descriptor: int) -> int:
        return null if descriptor < 0 or is_null(os.fstat(descriptor)) else descriptor

    return Stdio(kept(stdio.stdin), kept(stdio.stdout), kept(stdio.stderr))


def null_of(root: int) -> int:
    """The null device of a container, to be closed: its own, if it has one as it should; else the host's."""
    with suppress(OSError):
        seen = open_in(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if is_null(os.fstat(seen)):
                return os.open(f"/proc/self/fd/{seen}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(seen)
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def own_null(at: Path) -> None:
    """Put a null device of its own in the place of the host's, in this thread's mount namespace.

    `at` is an empty directory; it is one again afterwards.
    """
    mount("tmpfs", at, "tmpfs", _MS_NOSUID, "mode=0755")
    node = at / "null"
    os.mknod(node, stat.S_IFCHR | 0o666, NULL)
    node.chmod(0o666)
    tree = clone(node, recursive=False)
    try:
        attach(tree, Path(os.devnull))
    finally:
        os.close(tree)
    hide(at)
