"""Mounts that never appear on the host: a private mount namespace, and the root filesystem in it.

A mount namespace belongs to a thread, not to a process. So `private` runs its work in a thread of its
own that has left the host's namespace: errors come back as ordinary exceptions, and a program that
the work starts is born in that namespace. The kernel removes the namespace, with all its mounts, when
the last process in it has ended, even if we were killed meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from hybrid.errors import HostError
from hybrid.inroot import open_in

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

NULL = os.makedev(1, 3)

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 32, 4096, 16384, 1 << 19
_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_AT_RECURSIVE = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_MOUNT_ATTR_IDMAP = 0x00100000
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


@dataclass(frozen=True, slots=True)
class IdMap:
    """The `size` ids from 0 of the instance are the ids from `base` of the host, for users and groups."""

    base: int
    size: int = 65536


@dataclass(frozen=True, slots=True)
class Layers:
    """What an instance's root filesystem is made of."""

    lower: Path
    """The image's tree; never written to."""
    layer: Path
    """A directory that holds `upper`, the instance's own files, and `work`; made by `prepare`."""
    root: Path
    """Where the root filesystem is mounted."""

    def prepare(self, ids: IdMap | None) -> None:
        """Make the writable layer's directories. The upper one has the mode and owner of the image's root."""
        seen = self.lower.stat()
        base = ids.base if ids else 0
        self.layer.mkdir(mode=0o700)
        for name in ("upper", "work"):
            (self.layer / name).mkdir()
        upper = self.layer / "upper"
        os.chown(upper, base + seen.st_uid, base + seen.st_gid)
        upper.chmod(seen.st_mode & 0o7777)
        self.root.mkdir()


def private(work: Callable[[], T]) -> T:
    """The result of `work`, run in a mount namespace of its own, from which no mount reaches the host."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            _check(_libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
            _mount("none", "/", None, _MS_REC | _MS_SLAVE)
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
    """Unmount `path` in this thread's namespace, if something is mounted there."""
    if path.is_mount():
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"umount {path}")


def own_null(at: Path) -> None:
    """Put a null device of its own in the place of the host's, in this thread's namespace.

    Runtimes bind the device into the container, and give to its root what they get as a stream: the
    host's would be a container's to change. `at` is an empty directory, and is one again afterwards.
    """
    _mount("tmpfs", at, "tmpfs", _MS_NOSUID, "mode=0755")
    node = at / "null"
    os.mknod(node, stat.S_IFCHR | 0o666, NULL)
    node.chmod(0o666)
    _mount(node, os.devnull, None, _MS_BIND)
    hide(at)


def mount_root(layers: Layers, userns: int | None) -> None:
    """Mount the writable layer over the image at `layers.root`, in this thread's namespace.

    With `userns` (a user namespace's file descriptor) the image is seen through its id mapping: what
    belongs to 0 in the image belongs to the namespace's root, and nothing on disk changes its owner.
    The writable layer is not mapped: overlayfs writes there as root of the host, which the mapping
    does not know, and so its files lie on disk with the host's ids.
    """
    with ExitStack() as stack:
        open_lower = _open_directory if userns is None else partial(_idmapped, userns=userns)
        lower = stack.enter_context(_closing(open_lower(layers.lower)))
        layer = stack.enter_context(_closing(_open_directory(layers.layer)))
        # Descriptors and not paths: no character in a path can be taken for an option.
        paths = (f"lowerdir=/proc/self/fd/{lower}", *(f"{n}dir=/proc/self/fd/{layer}/{n}" for n in ("upper", "work")))
        try:
            _mount("overlay", layers.root, "overlay", 0, ",".join(paths))
        except OSError as error:
            raise HostError(
                f"the kernel refuses an overlay for {layers.root}: {error.strerror}",
                mend="see dmesg; the home must lie on a file system that can hold an upper layer (ext4, xfs, btrfs)",
            ) from None


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _idmapped(path: Path, userns: int) -> int:
    """Cover `path` with a mount of itself through the id mapping of `userns`; the mount's file descriptor."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    tree = _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), f"open_tree {path}")
    try:
        attributes = _MountAttr(attr_set=_MOUNT_ATTR_IDMAP, userns_fd=userns)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        result = _libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
        _check(result, f"id-mapped mount of {path}")
        result = _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)
        _check(result, f"move_mount {path}")
    except BaseException:
        os.close(tree)
        raise
    return tree


@cache
def user_namespace(ids: IdMap) -> int:
    """A file descriptor of a user namespace with this id mapping. It is this process's for good: not to be closed."""
    released, release = os.pipe2(os.O_CLOEXEC)
    made, making = os.pipe2(os.O_CLOEXEC)
    with ExitStack() as stack:
        stack.callback(os.close, released)
        stack.callback(os.close, made)
        pid = os.fork()
        if pid == 0:
            _live_in_user_namespace(making, released, release)
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.close, release)
        os.close(making)
        if code := int(os.read(made, 16) or str(errno.EAGAIN)):
            raise HostError(
                f"the kernel refuses a user namespace: {os.strerror(code)}",
                mend="raise /proc/sys/user/max_user_namespaces, or set container.userns to false",
            )
        _map(pid, ids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _map(pid: int, ids: IdMap) -> None:
    try:
        for name in ("gid_map", "uid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 {ids.base} {ids.size}\n")
    except OSError as error:
        raise HostError(
            f"the ids {ids.base} to {ids.base + ids.size - 1} cannot be a user namespace's: {error.strerror}",
            mend="give `hybrid` a range of 65536 ids of this host in /etc/subuid, or set container.userns to false",
        ) from None


def _live_in_user_namespace(making: int, released: int, release: int) -> None:
    """The child of `user_namespace`: enter a new one, say so, and end when the parent lets go."""
    try:
        os.close(release)
        code = ctypes.get_errno() if _libc.unshare(CLONE_NEWUSER) else 0
        os.write(making, str(code).encode())
        os.close(making)
        os.read(released, 1)
    finally:
        os._exit(0)


def bind_in(root: int, name: str, source: Path) -> None:
    """Show `source`, with all that is mounted below it, as directory `name` at the top of a root directory.

    `root` is its file descriptor. The directory is made when it is missing; a link in its place is
    followed inside that root only.
    """
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=root)
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    with ExitStack() as stack:
        target = open_in(root, name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, target)
        tree = _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags), f"open_tree {source}")
        stack.callback(os.close, tree)
        flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
        _check(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", target, b"", flags), f"bind {source}")


def write_in(root: int, path: str, text: str) -> None:
    """Write a file below a root directory, as a process inside it would; its directory is made when missing."""
    directory, _, _ = path.rpartition("/")
    with suppress(FileExistsError):
        os.mkdir(directory, dir_fd=root)
    file = open_in(root, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    with os.fdopen(file, "w") as stream:
        stream.write(text)


def enter(pid: int) -> None:
    """Move this thread, or the child about to execute, into a process's mount namespace and root directory."""
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _check(_libc.setns(namespace, CLONE_NEWNS), f"setns to the mount namespace of {pid}")
    os.fchdir(root)
    os.chroot(".")


def _mount(source: str | Path, target: str | Path, kind: str | None, flags: int, options: str = "") -> None:
    arguments = (
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(_libc.mount(*arguments), f"mount {target}")


def _check(result: int, what: str) -> int:
    """The result of a system call; OSError that says what was tried when it failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def check_idmapped(path: Path) -> None:
    """HostError when the kernel has no id-mapped mounts for the file system of a directory."""
    userns = user_namespace(IdMap(0))
    try:
        private(lambda: os.close(_idmapped(path, userns)))
    except OSError as error:
        raise HostError(
            f"the kernel has no id-mapped mounts here: {error.strerror}",
            where=str(path),
            mend="use Linux 5.19 or newer and a home on ext4, xfs or btrfs, or set container.userns to false",
        ) from None
