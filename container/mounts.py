"""A container's root filesystem, mounted where only a private mount namespace shows it, and its user namespace."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hybrid.errors import HostError
from hybrid.home import ordinary_user
from hybrid.inroot import open_in
from hybrid.mounts import CLONE_NEWNS, attach, bind_in, check, clone, closing, hide, mount, open_directory, private

__all__ = [
    "CLONE_NEWNS",
    "CLONE_NEWUSER",
    "IdMap",
    "Layers",
    "bind_in",
    "check_idmapped",
    "enter",
    "hide",
    "mount_root",
    "private",
    "user_namespace",
    "write_in",
]

CLONE_NEWUSER = 0x10000000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class IdMap:
    """The `size` ids from 0 of the instance are the ids from `base` of the host, for users and groups."""

    base: int
    size: int = 65536
    cuts: tuple[int, ...] = ()
    """Ids of the host at which a new range begins in the host's own id mapping: the kernel maps none across."""

    @property
    def ranges(self) -> list[tuple[int, int, int]]:
        """First id in the instance, first id of the host, and count, of each range."""
        ends = [*sorted(cut for cut in self.cuts if self.base < cut < self.base + self.size), self.base + self.size]
        starts = [self.base, *ends[:-1]]
        return [(start - self.base, start, end - start) for start, end in zip(starts, ends, strict=True)]

    @property
    def is_identity(self) -> bool:
        """Whether ids are the host's: then an image's tree is seen as it is. So it is for ordinary users."""
        return self.base == 0


@dataclass(frozen=True, slots=True)
class Layers:
    """What an instance's root filesystem is made of."""

    lower: Path
    """The image's tree; never written to."""
    layer: Path
    """A directory that holds `upper`, the instance's own files, and `work`; made by `prepare`."""
    root: Path
    """Where the root filesystem is mounted."""
    source: str = "overlay"
    """What mountinfo shows as the mount's source."""

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


def mount_root(layers: Layers, userns: int | None) -> None:
    """Mount the writable layer over the image at `layers.root`, in this thread's namespace.

    With `userns` (a user namespace's file descriptor) the image is seen through its id mapping: what
    belongs to 0 in the image belongs to the namespace's root, and nothing on disk changes its owner.
    The writable layer is not mapped: overlayfs writes there as root of the host, which the mapping
    does not know, and so its files lie on disk with the host's ids.
    """
    with ExitStack() as stack:
        lower = stack.enter_context(
            closing(open_directory(layers.lower) if userns is None else _idmapped(layers.lower, userns))
        )
        layer = stack.enter_context(closing(open_directory(layers.layer)))
        # Descriptors and not paths: no character in a path can be taken for an option.
        paths = (f"lowerdir=/proc/self/fd/{lower}", *(f"{n}dir=/proc/self/fd/{layer}/{n}" for n in ("upper", "work")))
        try:
            mount(layers.source, layers.root, "overlay", 0, ",".join((*paths, *_own_attributes())))
        except OSError as error:
            raise HostError(
                f"the kernel refuses an overlay for {layers.root}: {error.strerror}",
                mend="see dmesg; the home must lie on a file system that can hold an upper layer (ext4, xfs, btrfs)",
            ) from None


def load_overlay() -> None:
    """Have the kernel load overlayfs, which it does when anybody mounts one: here without layers, which fails."""
    with suppress(OSError):
        mount("overlay", "/", "overlay", 0)


def _own_attributes() -> tuple[str, ...]:
    """The kernel keeps what overlayfs notes in `trusted` attributes from ordinary users."""
    return ("userxattr",) if ordinary_user() is not None else ()


def _idmapped(path: Path, userns: int) -> int:
    """Cover `path` with a mount of itself through the id mapping of `userns`; the mount's file descriptor."""
    tree = clone(path, recursive=False, userns=userns)
    try:
        attach(tree, path)
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
            Path(f"/proc/{pid}/{name}").write_text("".join(f"{a} {b} {n}\n" for a, b, n in ids.ranges))
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
    check(_libc.setns(namespace, CLONE_NEWNS), f"setns to the mount namespace of {pid}")
    os.fchdir(root)
    os.chroot(".")


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
