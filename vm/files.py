"""Files of a guest as tar archives. What goes to and comes from the guest are records: vm/init/inside.c.

The guest is an enemy: what it says is read with bounds, and names that it gives stay below the one asked for.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from hybrid.driver import FileStatus
from hybrid.errors import HybridError
from hybrid.images import tarscan
from hybrid.images.tarscan import Damaged, Entry, Status

_CHUNK = 1 << 16
_MAX_LINE = 256
_MAX_NAME = 1 << 16
_MAX_MAP = 1 << 20
_TYPES = {
    b"f": tarfile.REGTYPE,
    b"d": tarfile.DIRTYPE,
    b"l": tarfile.SYMTYPE,
    b"h": tarfile.LNKTYPE,
    b"p": tarfile.FIFOTYPE,
    b"c": tarfile.CHRTYPE,
    b"b": tarfile.BLKTYPE,
}
_KINDS = {b"5": "d", b"2": "l", b"1": "h", b"6": "p", b"3": "c", b"4": "b"}

Read = Callable[[int], bytes]
Write = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Record:
    """What the guest tells of one thing."""

    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    major: int
    minor: int
    name: bytes
    link: bytes


class _Told:
    """Exact reads of what a guest sends."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._rest = b""

    def line(self) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > _MAX_LINE or not (data := self._read(_CHUNK)):
                raise _distrusted()
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def exactly(self, size: int) -> bytes:
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._rest and not (data := self._read(_CHUNK)):
                raise _distrusted()
            data = self._rest or data
            piece, self._rest = data[:size], data[size:]
            size -= len(piece)
            yield piece

    def record(self) -> Record:
        kind, *numbers = self.line().split(b" ")
        try:
            mode = int(numbers[0], 8)
            uid, gid, seconds, nanoseconds, size, major, minor, name, link = map(int, numbers[1:])
        except (ValueError, IndexError):
            raise _distrusted() from None
        if min(uid, gid, size, major, minor, name, link) < 0 or max(uid, gid) >= 2**32:
            raise _distrusted()
        if max(name, link) > _MAX_NAME:
            raise _distrusted()
        if not 0 <= nanoseconds < 10**9 or abs(seconds) > 2**40 or max(major, minor) >= 1 << 20 or size > 2**62:
            raise _distrusted()
        if kind not in (*_TYPES, b"s", b"e"):
            raise _distrusted()
        mtime = seconds * 10**9 + nanoseconds
        return Record(
            kind, mode & 0o177777, uid, gid, mtime, size, major, minor, self.exactly(name), self.exactly(link)
        )


def _distrusted() -> HybridError:
    return HybridError("the guest's answer makes no sense", mend="its system may be damaged, or hostile")


def status(read: Read) -> FileStatus:
    """What the guest told of one path."""
    told = _Told(read)
    record = told.record()
    try:
        size = int(told.line())
    except ValueError:
        raise _distrusted() from None
    return FileStatus(record.mode, size, record.mtime_ns / 1e9, os.fsdecode(record.link))


# Out of the guest


def pack(read: Read, write: Write, path: str) -> None:
    """Write the guest's records of what is at `path` as a tar archive."""
    told, base = _Told(read), os.fsencode(PurePosixPath(path).name or ".")
    while (record := told.record()).kind != b"e":
        _check_name(record.name, base)
        if record.kind == b"h":
            _check_name(record.link, base)
        if record.kind == b"s":
            continue
        write(_info(record).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        for piece in told.pieces(record.size):
            write(piece)
        write(bytes(-record.size % tarfile.BLOCKSIZE))
    write(bytes(2 * tarfile.BLOCKSIZE))


def _check_name(name: bytes, base: bytes) -> None:
    first, *rest = name.split(b"/")
    if first != base or any(part in (b"", b".", b"..") for part in rest) or b"\0" in name:
        raise _distrusted()


def _info(record: Record) -> tarfile.TarInfo:
    info = tarfile.TarInfo(os.fsdecode(record.name))
    info.type = _TYPES[record.kind]
    info.mode = stat.S_IMODE(record.mode)
    info.uid, info.gid, info.size = record.uid, record.gid, record.size
    info.linkname = os.fsdecode(record.link)
    seconds, rest = divmod(record.mtime_ns, 10**9)
    info.mtime = max(0, seconds)
    if rest or seconds < 0:
        sign = "-" if record.mtime_ns < 0 else ""
        whole, fraction = divmod(abs(record.mtime_ns), 10**9)
        info.pax_headers = {"mtime": f"{sign}{whole}.{fraction:09}"}
    if record.kind in (b"c", b"b"):
        info.devmajor, info.devminor = record.major, record.minor
    return info


# Into the guest


def unpack(source: int, write: Write) -> None:
    """Turn the archive that comes from a descriptor into records for the guest.

    HybridError for one that is damaged; what came before has been written.
    """
    stream = _Source(source)
    folders: list[tuple[bytes, Status]] = []
    try:
        for entry in tarscan.entries(stream):
            if entry.header:
                _send(entry, tarscan.status(entry), stream, write, folders)
        for name, found in folders:  # at the end: what is made in them changes their times
            write(_line("t", found, 0, name, b""))
        write(_line("e", None, 0, b"", b""))
        stream.drain()
    except Damaged as error:
        raise HybridError(f"the archive cannot be unpacked: {error}", mend="give a plain tar archive") from None


def _send(entry: Entry, found: Status, stream: _Source, write: Write, folders: list[tuple[bytes, Status]]) -> None:
    name = _relative(entry.name)
    is_folder = entry.kind == b"5" or (entry.kind == b"\0" and entry.name.endswith(b"/"))
    if name.rpartition(b"/")[2] == b"..":
        raise Damaged(f"{entry.shown} names a directory above it")
    if not name:
        if not is_folder:
            raise Damaged(f"{entry.shown} would take the directory's place")
        return  # it is there, and keeps its own owner and mode
    if is_folder:
        folders.append((name, found))
        write(_line("d", found, 0, name, b""))
    elif entry.kind in b"07\0S":
        write(_line("f", found, entry.size, name, b""))
        _send_data(entry, stream, write)
    else:
        link = _relative(entry.link) if entry.kind == b"1" else entry.link
        write(_line(_KINDS[entry.kind], found, 0, name, link if entry.kind in b"12" else b""))


def _relative(name: bytes) -> bytes:
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def _line(kind: str, found: Status | None, size: int, name: bytes, link: bytes) -> bytes:
    found = found or Status(0, 0, 0, 0, 0)
    seconds, rest = divmod(found.mtime_ns, 10**9)
    device = os.major(found.device), os.minor(found.device)
    numbers = (found.uid, found.gid, seconds, rest, size, *device, len(name), len(link))
    return f"{kind} {found.mode:o} {' '.join(map(str, numbers))}\n".encode() + name + link


def _send_data(entry: Entry, stream: _Source, write: Write) -> None:
    """The file's bytes, holes as zeros: the guest makes holes of them again."""
    end = 0
    for start, length in _segments(entry, stream):
        _zeros(start - end, write)
        for piece in stream.data(length):
            write(piece)
        end = start + length
    _zeros(entry.size - end, write)


def _zeros(size: int, write: Write) -> None:
    while size > 0:
        write(bytes(min(size, _CHUNK)))
        size -= min(size, _CHUNK)


class _Source(tarscan.Stream):
    """The archive, with the data of an entry to be read in pieces while it is at it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(lambda size: os.read(descriptor, size))
        self._taken = 0

    def data(self, size: int) -> Iterator[bytes]:
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
