"""Files of an instance as a tar archive, written while they are read.

The tree is the instance's, which may change it meanwhile and may be hostile: every name is resolved by the
kernel inside its root, only what is a regular file is read, and a file that shrinks is filled up with zeros.
"""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from container.terminal import write_all
from hybrid.driver import FileStatus
from hybrid.inroot import open_in

if TYPE_CHECKING:
    from container.inside import Ids

_CHUNK = 1 << 20
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPES = {
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
_PSEUDO = frozenset(
    {
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs"),
        *("fusectl", "mqueue", "nsfs", "proc", "pstore", "securityfs", "selinuxfs", "sysfs", "tracefs"),
    }
)


def pseudo(mountinfo: str) -> frozenset[int]:
    """The devices of file systems that show the kernel and hold no files, in the text of /proc/PID/mountinfo."""
    found = set()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] in _PSEUDO:
            major, _, minor = before.split()[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def status(root: int, path: str) -> FileStatus:
    """What is at a path below a root directory."""
    descriptor = _open(root, path)
    try:
        found = os.fstat(descriptor)
        target = os.readlink("", dir_fd=descriptor) if stat.S_ISLNK(found.st_mode) else ""
    finally:
        os.close(descriptor)
    return FileStatus(found.st_mode, found.st_size, found.st_mtime, target)


def _open(root: int, path: str) -> int:
    """A descriptor of what is there. A last link is followed only when the path says that it is a directory."""
    if path.endswith(("/", "/.")):
        return open_in(root, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return open_in(root, path, _PATH)


class Packer:
    """Writes one archive to the descriptor `sink`. `hidden` are the devices below which nothing is looked at."""

    def __init__(self, root: int, sink: int, ids: Ids, hidden: frozenset[int]) -> None:
        self._root = root
        self._sink = sink
        self._ids = ids
        self._hidden = hidden
        self._linked: dict[tuple[int, int], str] = {}
        """The first name of each file that has several."""

    def pack(self, path: str) -> None:
        """Write what is at a path, with all below it."""
        follow = path.endswith(("/", "/."))
        waiting = [(path, PurePosixPath(path).name or ".")]
        while waiting:
            path, name = waiting.pop()
            try:
                descriptor = _open(self._root, path) if follow else open_in(self._root, path, _PATH)
            except FileNotFoundError:
                if "/" not in name:
                    raise
                continue  # removed while its directory was read
            try:
                names = self._member(descriptor, name)
            finally:
                os.close(descriptor)
            waiting += [(f"{path.rstrip('/')}/{each}", f"{name}/{each}") for each in reversed(names)]
            follow = False
        write_all(self._sink, bytes(2 * tarfile.BLOCKSIZE))

    def _member(self, descriptor: int, name: str) -> list[str]:
        """Write one member; of a directory, the names in it."""
        found = os.fstat(descriptor)
        kind = _TYPES.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return []  # a socket is no use without its owner
        info = self._info(found, kind, name)
        if kind == tarfile.SYMTYPE:
            info.linkname = os.readlink("", dir_fd=descriptor)
        elif found.st_nlink > 1 and kind != tarfile.DIRTYPE:
            first = self._linked.setdefault((found.st_dev, found.st_ino), name)
            if first != name:
                info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
        self._header(info)
        if info.type == tarfile.REGTYPE:
            self._content(descriptor, found.st_size)
        if kind != tarfile.DIRTYPE or found.st_dev in self._hidden:
            return []
        return _names(descriptor)

    def _info(self, found: os.stat_result, kind: bytes, name: str) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.mode = stat.S_IMODE(found.st_mode)
        info.uid, info.gid = self._ids.inside(found.st_uid), self._ids.inside(found.st_gid)
        info.size = found.st_size if kind == tarfile.REGTYPE else 0
        seconds, rest = divmod(found.st_mtime_ns, 10**9)
        info.mtime = max(0, seconds)
        if rest or seconds < 0:
            info.pax_headers = {"mtime": _decimal(found.st_mtime_ns)}
        if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
        return info

    def _header(self, info: tarfile.TarInfo) -> None:
        write_all(self._sink, info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _content(self, descriptor: int, size: int) -> None:
        file = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            left = size
            while left and (data := os.read(file, min(left, _CHUNK))):
                write_all(self._sink, data)
                left -= len(data)
        finally:
            os.close(file)
        left += -size % tarfile.BLOCKSIZE
        while left:
            write_all(self._sink, bytes(min(left, _CHUNK)))
            left -= min(left, _CHUNK)


def _names(descriptor: int) -> list[str]:
    directory = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208
    finally:
        os.close(directory)


def _decimal(nanoseconds: int) -> str:
    """Seconds with a fraction, exactly."""
    sign, (seconds, rest) = "-" if nanoseconds < 0 else "", divmod(abs(nanoseconds), 10**9)
    return f"{sign}{seconds}.{rest:09}"
