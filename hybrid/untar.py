"""Unpacking an archive that an instance made into a directory of this host.

The instance is an enemy: whatever the archive says, nothing outside the directory is written, read or
changed. Names are walked part by part and no link is followed on the way; a file takes the place of what
has its name, and is never written through; no device is made; nobody gets a program that runs as its owner.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hybrid.errors import HybridError
from hybrid.images import tarscan
from hybrid.images.tarscan import Damaged, Entry

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_MAX_DEPTH = 1000


def untar(source: int, directory: Path, name: str | None, *, owners: bool = False) -> int:
    """Unpack the archive that comes through a descriptor; the bytes of its files.

    What the archive holds is one file or tree. It is called `name` in `directory`, or with None its contents
    go there. With `owners` files get the owners that the archive names, if we may do that. HybridError for an
    archive that is damaged or would do what is said above; what came before stays.
    """
    with _Target(directory, name, owners) as target:
        stream = _Stream(source)
        try:
            for entry in tarscan.entries(stream):
                if entry.header:
                    target.write(entry, stream)
        except Damaged as error:
            raise HybridError(f"what came out of the instance is no archive to be trusted: {error}") from None
        target.finish()
        stream.drain()
        return target.bytes


class _Stream(tarscan.Stream):
    """A pipe whose data can be taken before it is skipped."""

    def __init__(self, source: int) -> None:
        super().__init__(lambda size: os.read(source, min(size, _CHUNK)))
        self._taken = 0

    def copy(self, size: int, file: int) -> None:
        """The entry's data into a file."""
        left = size
        while left:
            data = self._read(left)
            if not data:
                raise Damaged("it ends in the middle of a file")
            left -= len(data)
            while data:
                data = data[os.write(file, data) :]
        self._taken = size

    def skip(self, size: int) -> None:
        super().skip(size - self._taken)
        self._taken = 0


class _Target:
    """The directory that is written into."""

    def __init__(self, directory: Path, name: str | None, owners: bool) -> None:
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = name
        self._owners = owners and os.geteuid() == 0
        self._parent: tuple[tuple[str, ...], int] | None = None
        self._times: list[tuple[tuple[str, ...], int, int]] = []
        """Of directories: path, mode, time. Set at the end, since what is written in them changes the time."""
        self.bytes = 0

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        os.close(self._root)

    def write(self, entry: Entry, stream: _Stream) -> None:
        path = self._path(entry.name)
        if path is None:
            return
        parent, last = self._open(path[:-1]), path[-1]
        status = tarscan.status(entry)
        mode = status.mode & 0o777
        if entry.kind == b"5" or (entry.kind in b"\0" and entry.name.endswith(b"/")):
            self._make_directory(parent, last)
            self._times.append((path, mode, status.mtime_ns))
        elif entry.kind == b"2":
            self._clear(parent, last)
            os.symlink(os.fsdecode(entry.link), last, dir_fd=parent)
        elif entry.kind == b"1":
            self._link(entry, parent, last)
            return
        elif entry.kind == b"6":
            self._clear(parent, last)
            os.mkfifo(last, mode, dir_fd=parent)
        elif entry.kind in b"34":
            raise HybridError(f"{entry.shown} is a device: none is made on this host", mend="copy what is beside it")
        elif entry.sparse:
            raise HybridError(f"{entry.shown} has holes in a form that is not known")
        else:
            self._file(parent, last, entry, stream, mode)
        if self._owners:
            os.chown(last, status.uid, status.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(last, ns=(status.mtime_ns, status.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        """Modes and times of directories, the innermost first."""
        self._forget()
        for path, mode, mtime in reversed(self._times):
            descriptor = self._walk(path)
            try:
                os.fchmod(descriptor, mode)
                os.utime(descriptor, ns=(mtime, mtime))
            finally:
                os.close(descriptor)

    # ---- what is made --------------------------------------------------------------------

    def _file(self, parent: int, last: str, entry: Entry, stream: _Stream, mode: int) -> None:
        self._clear(parent, last)
        file = os.open(last, _NEW, 0o600, dir_fd=parent)
        try:
            stream.copy(entry.size, file)
            os.fchmod(file, mode)
        finally:
            os.close(file)
        self.bytes += entry.size

    def _link(self, entry: Entry, parent: int, last: str) -> None:
        wanted = self._path(entry.link)
        if wanted is None:
            raise Damaged(f"{entry.shown} is a link to the whole tree")
        directory = self._walk(wanted[:-1])
        try:
            self._clear(parent, last)
            os.link(wanted[-1], last, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise Damaged(f"{entry.shown} is a link to what is not there") from None
        finally:
            os.close(directory)

    def _make_directory(self, parent: int, last: str) -> None:
        try:
            os.mkdir(last, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
                raise HybridError(
                    f"{last!r} is no directory here, and one in the instance", mend="move it away"
                ) from None

    def _clear(self, parent: int, last: str) -> None:
        """Make room for what has this name; a directory keeps it."""
        try:
            os.unlink(last, dir_fd=parent)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            raise HybridError(f"{last!r} is a directory here, and none in the instance", mend="move it away") from None

    # ---- names ---------------------------------------------------------------------------

    def _path(self, name: bytes) -> tuple[str, ...] | None:
        """Where an entry goes, below the directory; None for the tree itself when only its contents go there."""
        parts = [os.fsdecode(part) for part in name.split(b"/") if part not in (b"", b".")]
        if name.startswith(b"/") or ".." in parts or len(parts) > _MAX_DEPTH:
            raise Damaged(f"{tarscan.shown(name)} leads out of it")
        if self._name is not None:
            return (self._name, *parts[1:])
        return tuple(parts[1:]) or None

    def _open(self, path: tuple[str, ...]) -> int:
        """A directory, kept open until another is asked for."""
        if self._parent is None or self._parent[0] != path:
            self._forget()
            self._parent = (path, self._walk(path))
        return self._parent[1]

    def _forget(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _walk(self, path: Sequence[str]) -> int:
        """Open a directory part by part, no link followed; one that is missing is made."""
        here = os.dup(self._root)
        for part in path:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
            try:
                below = os.open(part, _DIRECTORY, dir_fd=here)
            except OSError:
                raise HybridError(
                    f"{'/'.join(path)}: {part!r} is a link or a file here; nothing is written through it",
                    mend="move it away",
                ) from None
            finally:
                os.close(here)
            here = below
        return here
