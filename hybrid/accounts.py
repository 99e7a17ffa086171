"""Users and groups by the image's own passwd and group files, as Docker looks them up.

The files are the image's and may be hostile: they are read up to a limit and lines that make no
sense are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hybrid import tree
from hybrid.errors import ImageError

MAX_FILE = 4 * 1024**2
MAX_ID = 2**31 - 1
MAX_GROUPS = 1024


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the command."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups."""
    home: str


def lookup(root: Path, user: str) -> Account:
    """The account that `user` (name, uid, name:group, uid:gid; empty for root) names in the tree at `root`.

    As in Docker: a uid needs no entry; supplementary groups come with a user given without a group;
    ImageError when a name is not there.
    """
    name, _, group = user.partition(":")
    entry = _user(root, name or "0")
    uid = entry.uid if entry else _number(name or "0", user, "passwd")
    gid = entry.gid if entry else 0
    groups: tuple[int, ...] = ()
    if group:
        gid = _group(root, group, user)
    elif entry:
        groups = tuple(dict.fromkeys(number for number, members in _groups_of(root) if entry.name in members))
    return Account(uid, gid, groups[:MAX_GROUPS], entry.home if entry else "/")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    uid: int
    gid: int
    home: str


def _user(root: Path, wanted: str) -> _Entry | None:
    """The entry of a user by name, else by uid: a name wins over a number that looks like it."""
    by_uid: _Entry | None = None
    for fields in _lines(root, "/etc/passwd", 6):
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is None or gid is None:
            continue
        entry = _Entry(fields[0], uid, gid, fields[5] if fields[5].startswith("/") else "/")
        if entry.name == wanted:
            return entry
        if by_uid is None and _id(wanted) == uid:
            by_uid = entry
    return by_uid


def _group(root: Path, wanted: str, user: str) -> int:
    for fields in _lines(root, "/etc/group", 3):
        if fields[0] == wanted and (gid := _id(fields[2])) is not None:
            return gid
    return _number(wanted, user, "group")


def _groups_of(root: Path) -> Iterator[tuple[int, list[str]]]:
    for fields in _lines(root, "/etc/group", 4):
        if (gid := _id(fields[2])) is not None:
            yield gid, fields[3].split(",")


def _lines(root: Path, path: str, least: int) -> Iterator[list[str]]:
    for line in tree.read(root, path, MAX_FILE).decode(errors="replace").splitlines():
        fields = line.strip().split(":")
        if len(fields) >= least and fields[0] and "\0" not in line:
            yield fields


def _id(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    return number if (number := int(text)) <= MAX_ID else None


def _number(text: str, user: str, file: str) -> int:
    if (number := _id(text)) is not None:
        return number
    if text.isascii() and text.isdigit():
        raise ImageError(f"user {user!r}: an id is at most {MAX_ID}", mend="choose a smaller number")
    kind = "user" if file == "passwd" else "group"
    raise ImageError(
        f"the image has no {kind} named {text!r}",
        where=f"/etc/{file} in the image",
        mend=f"use a {kind} that is there, or its number",
    )
