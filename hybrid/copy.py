"""Copying files between this host and an instance, by the rules of `docker cp`.

The rules are about what is there already and how a path ends: see `place`. Both sides speak tar, and the
archive is never whole anywhere: one side writes it while the other reads.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.errors import HybridError, InstanceError
from hybrid.untar import untar

if TYPE_CHECKING:
    from hybrid.driver import FileStatus, Inside

_MAX_LINKS = 40


@dataclass(frozen=True, slots=True)
class Place:
    """Where a copy goes."""

    directory: str
    """Exists."""
    name: str | None
    """What it is called there; None: what is in the source goes there, not the source itself."""


def place(source: str, tree: bool, target: str, found: bool | None, parent: Callable[[str], bool]) -> Place:
    """Docker's rules. `tree`: the source is a directory. `found`: the target is a directory, a file, or not there.

    `parent` says whether a path is a directory.
    """
    contents = tree and (source == "." or source.endswith("/."))
    if found is True:
        return Place(target, None if contents else last(source))
    if found is False:
        if tree:
            raise HybridError(f"{target} is a file: a directory cannot be copied to it", mend="name a directory")
        if target.endswith(("/", "/.")):
            raise HybridError(f"{target} is no directory", mend="leave out what follows its name")
    elif not tree and target.endswith("/"):
        raise HybridError(f"the directory {target} does not exist", mend="make it first, or leave out the last /")
    above, name = posixpath.split(target.rstrip("/"))
    if not parent(above or "."):
        raise HybridError(f"{above or '.'} is no directory, so {target} cannot be made", mend="make it first")
    return Place(above or ".", name)


def last(path: str) -> str:
    """What a path's copy is called."""
    return posixpath.basename(path.rstrip("/").removesuffix("/.").rstrip("/")) or "root"


# ---- into an instance --------------------------------------------------------------------


def put(inside: Inside, source: str, target: str, *, owners: bool, follow: bool) -> int:
    """Copy a path of this host into an instance; the bytes of its files.

    Files belong to the instance's root, with `owners` to the numbers that own them here.
    """
    path = _here(source, follow)
    target = posixpath.join("/", target)
    resolved, status = follow_links(inside, target)
    tree = path.is_dir() and not path.is_symlink()
    found = None if status is None else stat.S_ISDIR(status.mode)
    there = target if found is None else _ending(resolved, target)
    where = place(_named(source), tree, there, found, lambda above: _is_directory(inside, above))
    packer = _Packer(path, where.name, owners)
    with _beside(packer.pack) as reader:
        inside.unpack(where.directory, reader)
    return packer.bytes


def put_stream(inside: Inside, source: int, target: str) -> None:
    """Unpack a tar stream into a directory of the instance, which must exist."""
    target = posixpath.join("/", target)
    if not _is_directory(inside, target):
        raise InstanceError(f"{target} is no directory in the instance", mend="an archive is unpacked into a directory")
    inside.unpack(target, source)


def _here(source: str, follow: bool) -> Path:
    """The path on this host to be packed."""
    path = Path(source)
    try:
        if follow or source.endswith(("/", "/.")):
            path = path.resolve(strict=True)
        path.lstat()
    except (OSError, RuntimeError) as error:
        raise HybridError(f"{source}: {getattr(error, 'strerror', None) or error}", mend="check the path") from None
    if source.endswith(("/", "/.")) and not path.is_dir():
        raise HybridError(f"{source} is no directory", mend="leave out what follows its name")
    return path


def _named(source: str) -> str:
    """The source with a name to it, when it is only `.` or `..`."""
    return source if last(source) not in (".", "..") or source in (".",) else str(Path(source).resolve())


class _Packer:
    """Packs a path of this host; an archive's members are owned by root unless `owners`."""

    def __init__(self, path: Path, name: str | None, owners: bool) -> None:
        self._path, self._name, self._owners = path, name, owners
        self.bytes = 0

    def pack(self, sink: int) -> None:
        with os.fdopen(sink, "wb") as file:
            tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            if self._name is not None:
                tar.add(self._path, self._name, filter=self._owned)
            else:
                for each in sorted(self._path.iterdir()):
                    tar.add(each, each.name, filter=self._owned)
            tar.close()  # not when it failed: what ends early must not look whole

    def _owned(self, member: tarfile.TarInfo) -> tarfile.TarInfo:
        self.bytes += member.size
        member.uname = member.gname = ""
        if not self._owners:
            member.uid = member.gid = 0
        return member


# ---- out of an instance ------------------------------------------------------------------


def get(inside: Inside, source: str, target: str, *, owners: bool, follow: bool) -> int:
    """Copy a path of an instance to this host; the bytes of its files.

    Files belong to us, with `owners` to the numbers that own them there. Nothing outside the target is written.
    """
    path, status = _source(inside, source, follow)
    tree = stat.S_ISDIR(status.mode)
    there = Path(target)
    found = there.is_dir() if there.exists() else None
    resolved = _ending(str(there.resolve()), target) if found is not None else target
    where = place(posixpath.join("/", source), tree, resolved, found, lambda above: Path(above).is_dir())
    copied: list[int] = []
    with _beside(lambda fd: copied.append(_unpack(fd, where, owners)), reads=True) as writer:
        inside.pack(path, writer)
    return sum(copied)


def get_stream(inside: Inside, source: str, sink: int, *, follow: bool) -> None:
    """Write a path of an instance as a tar archive to a descriptor."""
    inside.pack(_source(inside, source, follow)[0], sink)


def _unpack(source: int, where: Place, owners: bool) -> int:
    try:
        return untar(source, Path(where.directory), where.name, owners=owners)
    finally:
        os.close(source)


def _source(inside: Inside, source: str, follow: bool) -> tuple[str, FileStatus]:
    path = posixpath.join("/", source)
    if follow or source.endswith(("/", "/.")):
        path, status = follow_links(inside, path)
    else:
        status = _status(inside, path)
    if status is None:
        raise InstanceError(f"{source} does not exist in the instance", mend="check the path")
    if source.endswith(("/", "/.")) and not stat.S_ISDIR(status.mode):
        raise InstanceError(f"{source} is no directory in the instance", mend="leave out what follows its name")
    return path, status


def follow_links(inside: Inside, path: str) -> tuple[str, FileStatus | None]:
    """Where a path of an instance leads, and what is there, if anything."""
    path = posixpath.join("/", path.rstrip("/").removesuffix("/.") or "/")
    for _ in range(_MAX_LINKS):
        status = _status(inside, path)
        if status is None or not stat.S_ISLNK(status.mode):
            return path, status
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), status.target))
    raise InstanceError(f"{path}: too many links", mend="name the file that is meant")


def _status(inside: Inside, path: str) -> FileStatus | None:
    try:
        return inside.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_directory(inside: Inside, path: str) -> bool:
    status = follow_links(inside, path)[1]
    return status is not None and stat.S_ISDIR(status.mode)


def _ending(path: str, said: str) -> str:
    """A path with the slash that was said at its end."""
    return f"{path}/" if said.endswith("/") and path != "/" else path


# ---- both at once ------------------------------------------------------------------------


@contextmanager
def _beside(work: Callable[[int], None], *, reads: bool = False) -> Iterator[int]:
    """Let `work` have one end of a pipe in a thread, and the block the other; with `reads` work's is the reading one.

    `work` closes its end. When both fail the cause is raised: the side that gave, not the one that missed it.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []
    thread = threading.Thread(target=_guarded, args=(work, reader if reads else writer, failures), daemon=True)
    thread.start()
    mine = writer if reads else reader
    try:
        yield mine
    except BrokenPipeError:
        pass  # the other side says why
    except (HybridError, OSError):
        os.close(mine)
        mine = -1
        thread.join()
        if failures and not reads and not isinstance(failures[0], BrokenPipeError):
            raise failures[0] from None
        raise
    finally:
        if mine >= 0:
            os.close(mine)
        thread.join()
    if failures:
        raise failures[0]


def _guarded(work: Callable[[int], None], end: int, failures: list[BaseException]) -> None:
    try:
        work(end)
    except BaseException as error:
        failures.append(error)
        with suppress(OSError):
            os.close(end)
