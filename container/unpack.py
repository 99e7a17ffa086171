"""A tar archive unpacked into a directory of an instance, as it is read from a descriptor.

Archive and instance may be hostile. The archive is parsed with bounds; every name is resolved by the kernel
below the directory, which no link of the archive or of the instance leads out of; what is in the way of a
member is removed, never written through.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from container.terminal import write_all
from hybrid.errors import HybridError
from hybrid.images import tarscan
from hybrid.images.tarscan import Damaged, Entry, Status
from hybrid.inroot import open_in

if TYPE_CHECKING:
    from container.inside import Ids

_CHUNK = 1 << 18
_MAX_MAP = 1 << 20
"""Bytes of the map of a sparse file."""
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}


def unpack(root: int, directory: str, source: int, ids: Ids) -> None:
    """Unpack what `source` gives, to its end, into a directory below the descriptor `root`."""
    whole = directory.strip("/.") == ""
    into = open_in(root, directory, _DIRECTORY)
    try:
        stream = _Source(source)
        unpacker = _Unpacker(into, stream, ids, beneath=not whole)
        name = b""
        try:
            for entry in tarscan.entries(stream):
                name = entry.name
                if entry.header:
                    unpacker.write(entry, tarscan.status(entry))
            unpacker.finish()
            stream.drain()
        except Damaged as error:
            raise HybridError(f"the archive cannot be unpacked: {error}", mend="give a plain tar archive") from None
        except OSError as error:
            raise HybridError(f"{tarscan.shown(name)} cannot be unpacked: {error.strerror}") from error
    finally:
        os.close(into)


class _Source(tarscan.Stream):
    """The archive, with the data of an entry to be read in pieces while it is at it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(lambda size: os.read(descriptor, size))
        self._taken = 0

    def data(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes of the entry's data."""
        while size:
            piece = self._read(min(size, _CHUNK))
            if not piece:
                raise Damaged("it ends in the middle of a file")
            self._taken += len(piece)
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        super().skip(size - self._taken)
        self._taken = 0


class _Unpacker:
    def __init__(self, into: int, stream: _Source, ids: Ids, *, beneath: bool) -> None:
        self._into = into
        self._stream = stream
        self._ids = ids
        self._beneath = beneath
        self._directories: dict[bytes, int] = {}
        """When each was changed, in ns: set at the end, for what is made in them changes it."""

    def write(self, entry: Entry, status: Status) -> None:
        parts = [part for part in entry.name.split(b"/") if part not in (b"", b".")]
        directory = entry.kind == b"5" or (entry.kind == b"\0" and entry.name.endswith(b"/"))
        if parts and parts[-1] == b"..":
            raise Damaged(f"{entry.shown} names a directory above it")
        if not parts:
            if not directory:
                raise Damaged(f"{entry.shown} would take the directory's place")
            return  # it is there, and keeps its own owner and mode
        with self._parent(parts[:-1]) as parent:
            name = os.fsdecode(parts[-1])
            if directory:
                self._make_directory(parent, name, entry, status)
                self._directories[b"/".join(parts)] = status.mtime_ns
                return
            _remove(parent, name, entry)
            if entry.kind == b"1":
                self._link(parent, name, entry)
                return
            if entry.kind in b"07\0S":
                self._make_file(parent, name, entry, status)
                return
            if entry.kind == b"2":
                os.symlink(os.fsdecode(entry.link), name, dir_fd=parent)
            else:
                os.mknod(name, _NODES[entry.kind] | 0o600, status.device, dir_fd=parent)
            self._describe(parent, name, entry, status)

    def finish(self) -> None:
        """Give the directories their times."""
        for path, mtime in self._directories.items():
            with suppress(OSError):
                descriptor = self._open(path, _DIRECTORY | os.O_NOFOLLOW)
                try:
                    os.utime(f"/proc/self/fd/{descriptor}", ns=(mtime, mtime))
                finally:
                    os.close(descriptor)

    # ---- members -------------------------------------------------------------------------

    def _make_directory(self, parent: int, name: str, entry: Entry, status: Status) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        self._describe(parent, name, entry, status)

    def _make_file(self, parent: int, name: str, entry: Entry, status: Status) -> None:
        file = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            for start, length in _segments(entry, self._stream):
                os.lseek(file, start, os.SEEK_SET)
                for piece in self._stream.data(length):
                    _write(file, piece)
            os.ftruncate(file, entry.size)
            os.fchown(file, *self._owner(entry, status))
            os.fchmod(file, status.mode)
            os.utime(file, ns=(status.mtime_ns, status.mtime_ns))
        finally:
            os.close(file)

    def _link(self, parent: int, name: str, entry: Entry) -> None:
        *above, last = [part for part in entry.link.split(b"/") if part not in (b"", b".")] or [b""]
        if last in (b"", b".."):
            raise Damaged(f"{entry.shown} is a link to a directory")
        with self._parent(above) as directory:
            source = os.fsdecode(last)
            os.link(source, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)

    def _describe(self, parent: int, name: str, entry: Entry, status: Status) -> None:
        """Owner, mode and time of what is not opened: through a descriptor that is sure to be of it."""
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chown(f"/proc/self/fd/{descriptor}", *self._owner(entry, status))
            if entry.kind != b"2":
                os.chmod(f"/proc/self/fd/{descriptor}", status.mode)  # noqa: PTH101
                os.utime(f"/proc/self/fd/{descriptor}", ns=(status.mtime_ns, status.mtime_ns))
            else:
                os.utime(name, ns=(status.mtime_ns, status.mtime_ns), dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(descriptor)

    def _owner(self, entry: Entry, status: Status) -> tuple[int, int]:
        uid, gid = self._ids.outside(status.uid), self._ids.outside(status.gid)
        if uid is None or gid is None:
            raise HybridError(
                f"{entry.shown} belongs to {status.uid}:{status.gid}, and the instance has ids up to "
                f"{self._ids.size - 1}",
                mend="make the archive with other owners",
            )
        return uid, gid

    # ---- names ---------------------------------------------------------------------------

    @contextmanager
    def _parent(self, parts: list[bytes]) -> Iterator[int]:
        """The directory that a member is in, made with those above it when missing."""
        try:
            found = self._open(b"/".join(parts), _DIRECTORY)
        except FileNotFoundError:
            found = self._make_path(parts)
        try:
            yield found
        finally:
            os.close(found)

    def _make_path(self, parts: list[bytes]) -> int:
        for number in range(len(parts)):
            above = self._open(b"/".join(parts[:number]), _DIRECTORY)
            try:
                name = os.fsdecode(parts[number])
                with suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=above)
                    os.chown(name, *(self._ids.base,) * 2, dir_fd=above, follow_symlinks=False)
            finally:
                os.close(above)
        return self._open(b"/".join(parts), _DIRECTORY)

    def _open(self, path: bytes, flags: int) -> int:
        return open_in(self._into, os.fsdecode(path or b"."), flags, beneath=self._beneath)


def _remove(parent: int, name: str, entry: Entry) -> None:
    """Make way for a member that is no directory."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise HybridError(f"{entry.shown} would take the place of a directory", mend="remove that first") from None


def _write(file: int, piece: bytes) -> None:
    """Write it, or leave a hole where it is nothing but zeros."""
    if piece.strip(b"\0"):
        write_all(file, piece)
    else:
        os.lseek(file, len(piece), os.SEEK_CUR)


def _segments(entry: Entry, stream: _Source) -> Iterator[tuple[int, int]]:
    """Where in the file data goes, and how much of it: all at once, or between the holes of a sparse one."""
    if not entry.sparse:
        yield 0, entry.size
        return
    end = 0
    numbers = iter(_map(entry, stream))
    for start in numbers:
        length = next(numbers, -1)
        if start < end or length < 0 or start + length > entry.size:
            raise Damaged(f"the map of {entry.shown}, a sparse file, is wrong")
        yield start, length
        end = start + length


def _map(entry: Entry, stream: _Source) -> list[int]:
    """The numbers of a sparse file's map, in PAX's forms 0.1 and 1.0."""
    records = entry.records
    if b"GNU.sparse.map" in records:
        return [_number(text) for text in records[b"GNU.sparse.map"].split(b",") if text]
    if records.get(b"GNU.sparse.major") != b"1" or records.get(b"GNU.sparse.minor") != b"0":
        raise Damaged(f"{entry.shown} has holes in a form that is not known; make the tar with --format=pax")
    data, wanted = bytearray(), 1
    while data.count(b"\n") < wanted:
        if len(data) > _MAX_MAP:
            raise Damaged(f"the map of {entry.shown}, a sparse file, is too long")
        data += b"".join(stream.data(tarscan.BLOCK))
        if b"\n" in data:
            wanted = 1 + 2 * _number(bytes(data.partition(b"\n")[0]))
    return [_number(bytes(text)) for text in data.split(b"\n")[1:wanted]]


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise Damaged("the map of a sparse file has something in it that is no number")
    return int(text)
