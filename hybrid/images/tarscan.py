"""Reading a tar as hostile input, in bounded memory: what is in it, and what each entry is to become.

Only headers are looked at. Sizes are read as Go's archive/tar reads them, since others unpack with that; what
the two could read differently (unknown kinds of entries, damaged numbers) is refused here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

BLOCK = 512
_CHUNK = 1024 * 1024
_MAX_HEADER = 1024 * 1024
"""Bytes of a long name or of a set of extended records."""
_MAX_MAPS = 65_536
"""Blocks of an old sparse file's map."""
_ZERO = bytes(BLOCK)
_FILES, _LINK, _SPARSE = b"\x0007", b"1", b"S"
_WITHOUT_DATA = b"123456"
_TIME = re.compile(rb"(-?)([0-9]{1,12})(?:\.([0-9]*))?")
_MAX_ID = 2**32 - 2
_MAX_SECONDS = 2**33
"""What every file system can hold, more or less."""
_LONG_LINK, _LONG_NAME, _RECORDS, _GLOBAL = b"K", b"L", b"x", b"g"


class Damaged(ValueError):
    """It is no tar, or one that cannot be trusted."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member."""

    name: bytes
    kind: bytes
    """The type flag: one byte."""
    link: bytes
    size: int
    """Bytes of the file, holes counted."""
    sparse: bool = False
    header: bytes = b""
    records: Mapping[bytes, bytes] = field(default_factory=dict)
    """What extended headers say of it."""

    @property
    def shown(self) -> str:
        """The name for a message."""
        return shown(self.name)


@dataclass(frozen=True, slots=True)
class Status:
    """What a member says of itself beside its content."""

    mode: int
    """Permissions, setuid, setgid and sticky bits."""
    uid: int
    gid: int
    mtime_ns: int
    device: int


def status(entry: Entry) -> Status:
    """Damaged when something in it is no number, or one that no file can have."""
    block, records = entry.header, entry.records
    uid, gid = (
        _decimal(records[key]) if key in records else _number(block[start : start + 8], key.decode())
        for key, start in ((b"uid", 108), (b"gid", 116))
    )
    if max(uid, gid) > _MAX_ID:
        raise Damaged(f"{entry.shown} belongs to nobody who can exist")
    return Status(
        mode=_number(block[100:108], "mode") & 0o7777,
        uid=uid,
        gid=gid,
        mtime_ns=_time(records[b"mtime"]) if b"mtime" in records else _seconds(block[136:148]) * 10**9,
        device=_device(block) if entry.kind in b"34" else 0,
    )


def _time(text: bytes) -> int:
    """Nanoseconds, of seconds with a fraction."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise Damaged("a time in an extended header is none")
    nanoseconds = int(found[2]) * 10**9 + int((found[3] or b"")[:9].ljust(9, b"0"))
    return _bounded(-nanoseconds if found[1] else nanoseconds)


def _seconds(field: bytes) -> int:
    before_1970 = field[0] == 0xFF
    value = int.from_bytes(field, "big", signed=True) if before_1970 else _number(field, "time")
    return _bounded(value * 10**9) // 10**9


def _bounded(nanoseconds: int) -> int:
    if abs(nanoseconds) > _MAX_SECONDS * 10**9:
        raise Damaged("a time is out of range")
    return nanoseconds


def _device(block: bytes) -> int:
    major, minor = _number(block[329:337], "device"), _number(block[337:345], "device")
    if major >= 1 << 12 or minor >= 1 << 20:
        raise Damaged("a device's number is out of range")
    return os.makedev(major, minor)


def shown(name: bytes) -> str:
    """A name as printable ASCII, not too long."""
    text = ascii(name)[2:-1]
    return text if len(text) <= 120 else f"{text[:117]}..."


class Stream:
    """Exact reads over `read`, which gives at most as many bytes as asked for and b"" at the end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def exactly(self, size: int) -> bytes:
        """`size` bytes; Damaged when there are fewer. Meant for what fits in memory."""
        data = self._read(size)
        while len(data) < size:
            more = self._read(size - len(data))
            if not more:
                raise Damaged("it ends in the middle of an entry")
            data += more
        return data

    def block(self) -> bytes | None:
        """The next header's block; None at the end."""
        data = self._read(BLOCK)
        if not data:
            return None
        return data if len(data) == BLOCK else data + self.exactly(BLOCK - len(data))

    def skip(self, size: int) -> None:
        while size > 0:
            data = self._read(min(size, _CHUNK))
            if not data:
                raise Damaged("it ends in the middle of a file")
            size -= len(data)

    def drain(self) -> None:
        """Read what follows the end of the tar."""
        while self._read(_CHUNK):
            pass


class Seekable(Stream):
    """The same over a file, in which data is not read to be skipped."""

    def __init__(self, file: int) -> None:
        self._file = file
        self.offset = 0
        """Where the data of the entry begins that came last."""

    def _take(self, size: int) -> bytes:
        data = os.pread(self._file, size, self.offset)
        self.offset += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        data = self._take(size)
        if len(data) < size:
            raise Damaged("it ends in the middle of an entry")
        return data

    def block(self) -> bytes | None:
        data = self._take(BLOCK)
        if 0 < len(data) < BLOCK:
            raise Damaged("it ends in the middle of an entry")
        return data or None

    def skip(self, size: int) -> None:
        self.offset += size


@dataclass(slots=True)
class _Pending:
    """What extended headers say of the entry that follows them."""

    name: bytes = b""
    link: bytes = b""
    records: dict[bytes, bytes] | None = None


def entries(stream: Stream) -> Iterator[Entry]:
    """Each member, its data skipped once the next is asked for. Damaged when it is no tar that can be trusted.

    Extended headers are not among them; headers without an entry count as one with an empty name.
    """
    pending = _Pending()
    while (block := stream.block()) is not None:
        if block == _ZERO:
            if stream.block() not in (None, _ZERO):
                raise Damaged("an empty block lies between its entries")
            return
        _check_sum(block)
        kind, size = block[156:157], _number(block[124:136], "size")
        if kind in (_LONG_NAME, _LONG_LINK, _RECORDS, _GLOBAL):
            _extend(pending, kind, _payload(stream, size))
            yield Entry(b"", kind, b"", 0)
            continue
        entry, stored = _entry(stream, block, kind, size, pending)
        yield entry
        stream.skip(_padded(stored))
        pending = _Pending()


def _entry(stream: Stream, block: bytes, kind: bytes, size: int, pending: _Pending) -> tuple[Entry, int]:
    """The member of this header, and how many bytes of data follow it."""
    records = pending.records or {}
    if kind not in _FILES and kind not in _WITHOUT_DATA and kind != _SPARSE:
        raise Damaged(f"an entry is of the unknown kind {shown(kind)}")
    name = pending.name or records.get(b"GNU.sparse.name") or records.get(b"path") or _name(block)
    link = pending.link or records.get(b"linkpath") or _text(block[157:257])
    if b"size" in records:
        size = _decimal(records[b"size"])
    stored = 0 if kind in _WITHOUT_DATA else size
    logical, sparse = stored, False
    if kind == _SPARSE:
        logical, sparse = _number(block[483:495], "size"), True
        _skip_map(stream, block[482])
    for key in (b"GNU.sparse.realsize", b"GNU.sparse.size"):
        if key in records:
            logical, sparse = _decimal(records[key]), True
    if b"\0" in name or b"\0" in link:
        raise Damaged("a name has a zero byte in it")
    return Entry(name, kind, link, max(logical, stored), sparse, block, records), stored


def _extend(pending: _Pending, kind: bytes, payload: bytes) -> None:
    if kind == _LONG_NAME:
        pending.name = _text(payload)
    elif kind == _LONG_LINK:
        pending.link = _text(payload)
    elif kind == _RECORDS:
        pending.records = _parse_records(payload)


def _payload(stream: Stream, size: int) -> bytes:
    if size > _MAX_HEADER:
        raise Damaged("a header is larger than 1 MiB")
    return stream.exactly(_padded(size))[:size]


def _parse_records(data: bytes) -> dict[bytes, bytes]:
    """Lines of `LENGTH KEY=VALUE`, the length counting the whole line."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        blank = data.find(b" ", at, at + 8)
        end = at + _decimal(data[at:blank]) if blank > at else 0
        record = data[blank + 1 : end]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not blank < end <= len(data) or record[-1:] != b"\n" or not equals or not key:
            raise Damaged("an extended header cannot be read")
        records[key] = value
        at = end
    return records


def _skip_map(stream: Stream, extended: int) -> None:
    """The blocks of an old sparse file's map that go on after its header."""
    for _ in range(_MAX_MAPS):
        if not extended:
            return
        extended = stream.exactly(BLOCK)[504]
    raise Damaged("the map of a sparse file is too long")


def _check_sum(block: bytes) -> None:
    said = _number(block[148:156], "checksum")
    rest = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(rest)
    if said not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest)):
        raise Damaged("the checksum of a header is wrong")


def _number(field: bytes, what: str) -> int:
    """Octal digits, or with the first bit set a binary number."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40 or value >= 2**63:
            raise Damaged(f"a {what} is out of range")
        return value
    digits = field.strip(b" \0").partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise Damaged(f"a {what} is no number")
    return int(digits, 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) >= 2**63:
        raise Damaged("a number in an extended header is none")
    return int(text)


def _name(block: bytes) -> bytes:
    name = _text(block[:100])
    if block[257:263] != b"ustar\0":
        return name
    prefix = _text(block[345 : 476 if block[508:512] == b"tar\0" else 500])
    return prefix + b"/" + name if prefix else name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK
