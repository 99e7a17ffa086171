"""A record of a tree in the form of mtree(5): every file's metadata and the digest of what is in it.

One line a file, its whole path first, in the order of the names' bytes. Other readers of mtree understand it.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hybrid.errors import ImageError

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!\"$%&'()+,-./:;<>?@[]^_`{|}~")
_SMALL = 256 * 1024
_HEAD = "#mtree v2.0\n"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What writing a record found."""

    digest: str
    """Of the record: it names everything that the tree is made of."""
    bytes: int
    """Allocated bytes of the tree; a hard-linked file counts once."""


def write(root: Path, path: Path) -> Recorded:
    """Record the tree at `root` in the file `path`. ImageError when names are too deep to be used."""
    digest = hashlib.sha256()
    links: set[tuple[int, int]] = set()
    total = 0
    with path.open("w", encoding="ascii") as file:
        for line, status in _lines(root):
            file.write(line)
            digest.update(line.encode())
            if status.st_nlink == 1 or (status.st_dev, status.st_ino) not in links:
                total += status.st_blocks * 512
                links.add((status.st_dev, status.st_ino))
    return Recorded(f"sha256:{digest.hexdigest()}", total)


def differences(root: Path, path: Path, digest: str) -> Iterator[str]:
    """How the tree at `root` differs from the record in `path`, one line a file. The record must have that digest."""
    recorded: dict[str, str] = {}
    found = hashlib.sha256()
    try:
        with path.open(encoding="ascii") as file:
            for line in file:
                found.update(line.encode())
                name, _, rest = line.rstrip("\n").partition(" ")
                recorded[name] = rest
    except (OSError, ValueError) as error:
        yield f"the record of its files cannot be read: {error}"
        return
    if f"sha256:{found.hexdigest()}" != digest:
        yield "the record of its files is damaged"
        return
    for line, _ in _lines(root):
        name, _, now = line.rstrip("\n").partition(" ")
        before = recorded.pop(name, None)
        if before is None and not name.startswith("#"):
            yield f"{name} was added"
        elif before is not None and before != now:
            yield f"{name}: {_changes(before, now)}"
    yield from (f"{name} is missing" for name in recorded if not name.startswith("#"))


def _changes(before: str, now: str) -> str:
    old, new = ({each.partition("=")[0]: each.partition("=")[2] for each in text.split()} for text in (before, now))
    changed = [key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key, 'none')} -> {new.get(key, 'none')}" for key in changed)


def _lines(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    top = os.fsencode(root)
    yield _HEAD, os.lstat(root)
    try:
        for path, status in _walk(top):
            yield f".{_escaped(path[len(top) :])} {_values(path, status)}\n", status
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ImageError("the image's directories are too deep", mend="use another image") from None


def _walk(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path below and with `top`; no recursion, however deep it is."""
    left = [(top, os.lstat(top))]
    while left:
        path, status = left.pop()
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                found = [(entry.path, entry.stat(follow_symlinks=False)) for entry in entries]
            left += sorted(found, key=lambda pair: pair[0], reverse=True)


def _values(path: bytes, status: os.stat_result) -> str:
    kind = stat.S_IFMT(status.st_mode)
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    text = (
        f"type={_KINDS[kind]} mode={stat.S_IMODE(status.st_mode):04o} uid={status.st_uid} gid={status.st_gid} "
        f"time={seconds}.{nanoseconds:09d}"
    )
    if kind == stat.S_IFREG:
        text += f" nlink={status.st_nlink} size={status.st_size} sha256digest={_content(path, status.st_size)}"
    elif kind == stat.S_IFLNK:
        text += f" link={_escaped(os.readlink(path))}"  # noqa: PTH115 (bytes)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        text += f" device=linux,{os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        value = base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode()
        text += f" xattr.{_escaped(os.fsencode(name))}={value}"
    return text


def _content(path: bytes, size: int) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if size <= _SMALL:
            return hashlib.sha256(os.read(descriptor, _SMALL + 1)).hexdigest()
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(descriptor)


def _escaped(name: bytes) -> str:
    """The name as mtree(5) has it: what is not plain ASCII as a backslash and three octal digits."""
    if _PLAIN.issuperset(name):
        return name.decode()
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in name)
