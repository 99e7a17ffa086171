"""Mounts that never appear on the host: in a mount namespace of one thread, below roots that are anybody's.

A mount namespace belongs to a thread, not to a process. So `private` runs its work in a thread of its
own that has left the host's namespace: errors come back as ordinary exceptions, and a program that
the work starts is born in that namespace. The kernel removes the namespace, with all its mounts, when
the last process in it has ended, even if we were killed meanwhile.

Mounts are descriptors until they are attached: no path is looked up twice, and no link is followed out
of the root that it is found in.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from hybrid.inroot import open_in

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_SLAVE = 32, 4096, 8192, 16384, 1 << 19

_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_IDMAP = 0x00000001, 0x00100000
# Newer than the C library: the same numbers on every architecture.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def private(work: Callable[[], T]) -> T:
    """The result of `work`, run in a mount namespace of its own, from which no mount reaches the host."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            check(_libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
            mount("none", "/", None, MS_REC | MS_SLAVE)
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, name="private-mounts", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:  # an interrupt: the work is not cut in two
        thread.join()
        raise
    if failure:
        raise failure[0]
    return outcome[0]


def hide(path: Path) -> None:
    """Unmount `path` in this thread's namespace, if something is mounted there; cover it, where only root could."""
    if path.is_mount() and _libc.umount2(os.fsencode(path), _MNT_DETACH) != 0:
        if ctypes.get_errno() != errno.EINVAL:
            check(-1, f"umount {path}")
        mount("none", path, "tmpfs", MS_RDONLY, "size=4k")


def mount(source: str | Path, target: str | Path, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    arguments = (
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    check(_libc.mount(*arguments), f"mount {target}")


def check(result: int, what: str) -> int:
    """The result of a system call; OSError that says what was tried when it failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def clone(source: Path | int, *, recursive: bool = True, userns: int | None = None, read_only: bool = False) -> int:
    """The descriptor of a mount that shows what is at `source` (a path or a descriptor), attached nowhere yet.

    `recursive`: with all that is mounted below it. With `userns`, a user namespace's descriptor, owners are
    seen through its id mapping; OSError EINVAL when one of the file systems cannot do that.
    """
    below = _AT_RECURSIVE if recursive else 0
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | below
    directory, path = (source, b"") if isinstance(source, int) else (_AT_FDCWD, os.fsencode(source))
    empty = 0 if path else _AT_EMPTY_PATH
    tree = check(_libc.syscall(_SYS_OPEN_TREE, directory, path, flags | empty), f"open_tree {source}")
    attributes = _MountAttr(
        attr_set=(_MOUNT_ATTR_RDONLY if read_only else 0) | (0 if userns is None else _MOUNT_ATTR_IDMAP),
        userns_fd=0 if userns is None else userns,
    )
    try:
        if attributes.attr_set:
            size = ctypes.c_size_t(ctypes.sizeof(attributes))
            result = _libc.syscall(
                _SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | below, ctypes.byref(attributes), size
            )
            check(result, f"id-mapped mount of {source}" if userns is not None else f"read-only mount of {source}")
    except BaseException:
        os.close(tree)
        raise
    return tree


def attach(tree: int, target: Path | int) -> None:
    """Put a mount that `clone` made at a path or on what a descriptor has open, in this thread's namespace."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    directory, path = (target, b"") if isinstance(target, int) else (_AT_FDCWD, os.fsencode(target))
    flags |= 0 if path else _MOVE_MOUNT_T_EMPTY_PATH
    check(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", directory, path, flags), f"move_mount {target}")


def open_directory(path: Path) -> int:
    """A descriptor that only names a directory."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close a descriptor when the block ends."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def bind_in(root: int, name: str, source: Path) -> None:
    """Show `source`, with all that is mounted below it, as directory `name` at the top of a root directory.

    `root` is its file descriptor. The directory is made when it is missing; a link in its place is
    followed inside that root only.
    """
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=root)
    with (
        closing(open_in(root, name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as target,
        closing(clone(source)) as tree,
    ):
        attach(tree, target)


def point_in(root: int, path: str, *, directory: bool = True) -> int:
    """A descriptor of the place `path` below a root directory to mount something on, made when it is missing.

    Links are followed inside that root only. What is made belongs to root, mode 0755, or 0644 for a file.
    """
    with suppress(FileNotFoundError):
        return _point(open_in(root, path, os.O_PATH | os.O_CLOEXEC), path, directory)
    parts = PurePosixPath("/", path).parts[1:]
    made = "."
    for number, part in enumerate(parts, 1):
        parent = open_in(root, made, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with closing(parent), suppress(FileExistsError):
            if directory or number < len(parts):
                os.mkdir(part, 0o755, dir_fd=parent)
            else:
                os.mknod(part, stat.S_IFREG | 0o644, dir_fd=parent)
        made = f"{made}/{part}"
    return _point(open_in(root, path, os.O_PATH | os.O_CLOEXEC), path, directory)


def _point(descriptor: int, path: str, directory: bool) -> int:
    if stat.S_ISDIR(os.fstat(descriptor).st_mode) is not directory:
        os.close(descriptor)
        raise NotADirectoryError(20, "a directory and a file cannot cover each other", path)
    return descriptor
