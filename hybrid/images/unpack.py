"""Writing an image's layers, which were looked through before, over one another into a tree.

Every name is looked up by the kernel inside the tree's root: no link, absolute name or `..` leads out of it,
whatever the layers made before. A layer's whiteouts come first, so that they hide what lies below the layer and
never what is in it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.errors import ImageError
from hybrid.images import tarscan
from hybrid.images.tarscan import Damaged, Entry, Status
from hybrid.inroot import open_in

if TYPE_CHECKING:
    from collections.abc import Callable

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_XATTR = b"SCHILY.xattr."
_INHERITED = b"system.posix_acl_default"
_OVERLAY = (b"trusted.overlay.", b"user.overlay.")
"""What overlayfs would take for its own: an image says nothing in it."""
_OF_THE_HOST = b"security.selinux"
_MAX_LINKS = 40
_SMALL = 64 * 1024
_HOST_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Unpacker:
    """A tree being made. `trash` is a directory of the same file system that is removed afterwards."""

    def __init__(self, root: Path, trash: Path) -> None:
        root.mkdir(mode=0o755)
        trash.mkdir(mode=0o700)
        self._stack = ExitStack()
        self._root = self._open(root)
        self._trash = self._open(trash)
        self._thrown = 0
        self._parent: tuple[bytes, int] | None = None
        """The directory of the entry before: the next one is mostly in it too."""
        self._directories: dict[int, tuple[bytes, int, bytes]] = {}
        """By inode: path, time, and what files in it inherit. Set at the end, since they change with what is in it."""
        self._privileged = os.geteuid() == 0

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *failure: object) -> None:
        self._forget_parent()
        self._stack.close()

    def _open(self, path: Path) -> int:
        descriptor = os.open(path, _DIRECTORY)
        self._stack.callback(os.close, descriptor)
        return descriptor

    def layer(self, tar: Path, whiteouts: Sequence[bytes], digest: str) -> None:
        """Write one layer, an uncompressed tar. ImageError, which names it by its digest, when that cannot be done."""
        name = b""
        try:
            for name in whiteouts:
                self._white_out(name)
            with tar.open("rb", buffering=0) as file:
                stream = tarscan.Seekable(file.fileno())
                for entry in tarscan.entries(stream):
                    name = entry.name
                    if entry.header and not is_whiteout(name):
                        self._write(entry, tarscan.status(entry), file.fileno(), stream.offset)
        except (Damaged, OSError) as error:
            if isinstance(error, OSError) and error.errno in _HOST_FAULTS:
                raise
            why = str(error) if isinstance(error, Damaged) else f"{tarscan.shown(name)}: {error.strerror}"
            raise ImageError(
                f"the image's layer {digest[7:19]} cannot be unpacked: {why}", mend="fetch or build it again"
            ) from None

    def finish(self) -> None:
        """Give the directories their times, and what files made in them will inherit."""
        self._forget_parent()
        for inode, (path, mtime, inherited) in self._directories.items():
            try:
                descriptor = open_in(self._root, _text(path), _READ_DIRECTORY)
            except OSError:
                continue  # another layer has removed it
            try:
                if os.fstat(descriptor).st_ino == inode:
                    if inherited:
                        _set(f"/proc/self/fd/{descriptor}", _INHERITED, inherited, follow=True)
                    os.utime(descriptor, ns=(mtime, mtime))
            finally:
                os.close(descriptor)

    # Entries

    def _write(self, entry: Entry, status: Status, tar: int, offset: int) -> None:
        parts = _parts(entry.name)
        directory = entry.kind == b"5" or (entry.kind == b"\0" and entry.name.endswith(b"/"))
        if not parts:
            if not directory:
                raise Damaged(f"{entry.shown} would take the place of the whole tree")
            self._describe_directory(self._root, b".", entry, status)
            return
        parent, name = self._directory(parts[:-1]), _text(parts[-1])
        if directory:
            self._make_directory(parent, name, b"/".join(parts), entry, status)
        elif entry.kind == b"1":
            self._link(parent, name, entry)
        elif entry.kind == b"2":
            self._anew(parent, name, lambda: os.symlink(_text(entry.link), name, dir_fd=parent))
            self._describe(parent, name, entry, status)
        elif entry.kind in b"346":
            self._make_node(parent, name, entry, status)
        else:
            self._make_file(parent, name, entry, status, tar, offset)

    def _make_directory(self, parent: int, name: str, path: bytes, entry: Entry, status: Status) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._anew(parent, name, lambda: os.mkdir(name, 0o700, dir_fd=parent))
        descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            self._describe_directory(descriptor, path, entry, status)
        finally:
            os.close(descriptor)

    def _describe_directory(self, descriptor: int, path: bytes, entry: Entry, status: Status) -> None:
        itself = f"/proc/self/fd/{descriptor}"
        self._own(lambda: os.chown(itself, status.uid, status.gid))
        for name in os.listxattr(itself):
            if os.fsencode(name) != _OF_THE_HOST:
                os.removexattr(itself, name)
        os.chmod(itself, status.mode)  # noqa: PTH101
        inherited = b""
        for key, value in _attributes(entry):
            if key == _INHERITED:
                inherited = value
            else:
                _set(itself, key, value, follow=True)
        self._directories[os.stat(itself).st_ino] = (path, status.mtime_ns, inherited)  # noqa: PTH116

    def _link(self, parent: int, name: str, entry: Entry) -> None:
        wanted = _parts(entry.link)
        if not wanted:
            raise Damaged(f"{entry.shown} is a link to the whole tree")
        directory = open_in(self._root, _text(b"/".join(wanted[:-1]) or b"."), _DIRECTORY)
        try:
            source = _text(wanted[-1])
            os.stat(source, dir_fd=directory, follow_symlinks=False)  # before what may be itself is removed
            self._anew(
                parent,
                name,
                lambda: os.link(source, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False),
            )
        finally:
            os.close(directory)

    def _make_node(self, parent: int, name: str, entry: Entry, status: Status) -> None:
        kind = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}[entry.kind]
        self._anew(parent, name, lambda: os.mknod(name, kind | 0o600, status.device, dir_fd=parent))
        self._describe(parent, name, entry, status)

    def _describe(self, parent: int, name: str, entry: Entry, status: Status) -> None:
        """Owner, mode, attributes and time of what is no file and no directory; by its name, since it is not opened."""
        self._own(lambda: os.chown(name, status.uid, status.gid, dir_fd=parent, follow_symlinks=False))
        if entry.kind != b"2":
            os.chmod(name, status.mode, dir_fd=parent)
        for key, value in _attributes(entry):
            _set(f"/proc/self/fd/{parent}/{name}", key, value, follow=False)
        os.utime(name, ns=(status.mtime_ns, status.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _make_file(self, parent: int, name: str, entry: Entry, status: Status, tar: int, offset: int) -> None:
        file = -1

        def make() -> None:
            nonlocal file
            file = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)

        self._anew(parent, name, make)
        try:
            if entry.sparse:
                _fill(file, tar, entry, offset)
            elif entry.size:
                _copy(tar, offset, file, entry.size)
            self._own(lambda: os.fchown(file, status.uid, status.gid))
            os.fchmod(file, status.mode)
            for key, value in _attributes(entry):
                _set(file, key, value, follow=True)
            os.utime(file, ns=(status.mtime_ns, status.mtime_ns))
        finally:
            os.close(file)

    def _own(self, change: Callable[[], None]) -> None:
        """Only root gives files to others."""
        if self._privileged:
            change()

    # Names

    def _directory(self, parts: Sequence[bytes]) -> int:
        """A directory of the tree, made with those above it when missing. The descriptor is ours until the next."""
        path = b"/".join(parts)
        if self._parent is not None and self._parent[0] == path:
            return self._parent[1]
        self._forget_parent()
        try:
            found = open_in(self._root, _text(path or b"."), _DIRECTORY)
        except FileNotFoundError:
            found = self._make_path(path, parts, 0)
        self._parent = (path, found)
        return found

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _make_path(self, path: bytes, parts: Sequence[bytes], links: int) -> int:
        """Make what is missing of a directory's path; where a link leads to nothing, what it leads to."""
        for number in range(len(parts)):
            with suppress(FileNotFoundError):
                os.close(open_in(self._root, _text(b"/".join(parts[: number + 1])), _DIRECTORY))
                continue
            above = open_in(self._root, _text(b"/".join(parts[:number]) or b"."), _DIRECTORY)
            try:
                self._make_missing(above, parts[: number + 1], links)
            finally:
                os.close(above)
        return open_in(self._root, _text(path), _DIRECTORY)

    def _make_missing(self, above: int, parts: Sequence[bytes], links: int) -> None:
        name = _text(parts[-1])
        try:
            os.mkdir(name, 0o755, dir_fd=above)
        except FileExistsError:
            target = os.fsencode(os.readlink(name, dir_fd=above))
            if links >= _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            wanted = [] if target.startswith(b"/") else list(parts[:-1])
            wanted += [part for part in target.split(b"/") if part not in (b"", b".")]
            os.close(self._make_path(b"/".join(wanted) or b".", wanted, links + 1))
            return
        made = os.stat(name, dir_fd=above, follow_symlinks=False)
        self._directories[made.st_ino] = (b"/".join(parts), 0, b"")  # nobody says since when: it is the same each time

    def _anew(self, parent: int, name: str, make: Callable[[], None]) -> None:
        """Make something, in the place of what has its name."""
        try:
            make()
        except FileExistsError:
            self._remove(parent, name)
            make()

    def _remove(self, parent: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            self._thrown += 1
            os.rename(name, str(self._thrown), src_dir_fd=parent, dst_dir_fd=self._trash)
            self._forget_below(parent)

    def _forget_below(self, parent: int) -> None:
        """The directory of the entry before may have gone with another; `parent` itself has not."""
        if self._parent is not None and self._parent[1] != parent:
            self._forget_parent()

    def _white_out(self, name: bytes) -> None:
        *above, last = _parts(name)
        try:
            directory = open_in(self._root, _text(b"/".join(above) or b"."), _READ_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return  # nothing is there to be hidden
        self._forget_parent()
        try:
            hidden = [_text(last.removeprefix(WHITEOUT))] if last != OPAQUE else os.listdir(directory)  # noqa: PTH208
            for each in hidden:
                self._remove(directory, each)
        finally:
            os.close(directory)


def _parts(name: bytes) -> list[bytes]:
    return [part for part in name.split(b"/") if part not in (b"", b".")]


def is_whiteout(name: bytes) -> bool:
    """Whether an entry of this name hides what lies below its layer."""
    return WHITEOUT in name and (_parts(name) or [b""])[-1].startswith(WHITEOUT)


def _text(name: bytes) -> str:
    return os.fsdecode(name)


# Content and attributes


def _copy(source: int, offset: int, target: int, size: int) -> None:
    """`size` bytes from `offset` of a file to where another one is."""
    if size <= _SMALL:
        data = os.pread(source, size, offset)
        if len(data) != size or os.write(target, data) != size:
            raise Damaged("it ends in the middle of a file")
        return
    while size:
        done = os.sendfile(target, source, offset, min(size, 1 << 30))
        if not done:
            raise Damaged("it ends in the middle of a file")
        offset, size = offset + done, size - done


def _fill(file: int, tar: int, entry: Entry, offset: int) -> None:
    """A file with holes: only what is between them is written."""
    end = 0
    for start, length, at in _segments(tar, entry, offset):
        if start < end or start + length > entry.size:
            raise Damaged(f"the map of {entry.shown}, a sparse file, is wrong")
        end = start + length
        os.lseek(file, start, os.SEEK_SET)
        if length:
            _copy(tar, at, file, length)
    os.ftruncate(file, entry.size)


def _segments(tar: int, entry: Entry, offset: int) -> Iterator[tuple[int, int, int]]:
    """Where in the file, how many bytes, and where in the tar, by PAX's maps of 0.1 and 1.0."""
    records = entry.records
    if b"GNU.sparse.map" in records:
        numbers = iter([_number(text) for text in records[b"GNU.sparse.map"].split(b",") if text])
    elif records.get(b"GNU.sparse.major") == b"1" and records.get(b"GNU.sparse.minor") == b"0":
        found, size = _read_map(tar, offset, entry)
        numbers, offset = iter(found), offset + size
    else:
        raise Damaged(f"{entry.shown} has holes in a form that is not known; make the tar with --format=pax")
    for start in numbers:
        length = next(numbers, 0)
        yield start, length, offset
        offset += length


def _read_map(tar: int, offset: int, entry: Entry) -> tuple[list[int], int]:
    """The numbers of a map of 1.0, and how many bytes it takes: a count and twice as many numbers, a line each."""
    data, wanted = b"", 1
    while data.count(b"\n") < wanted:
        block = os.pread(tar, tarscan.BLOCK, offset + len(data))
        if len(block) < tarscan.BLOCK or len(data) > entry.size + (1 << 20):
            raise Damaged(f"the map of {entry.shown}, a sparse file, is cut")
        data += block
        if b"\n" in data:
            wanted = 1 + 2 * _number(data.partition(b"\n")[0])
    return [_number(text) for text in data.split(b"\n")[1:wanted]], len(data)


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise Damaged("the map of a sparse file has something in it that is no number")
    return int(text)


def _attributes(entry: Entry) -> Iterator[tuple[bytes, bytes]]:
    for key, value in entry.records.items():
        name = key.removeprefix(_XATTR)
        if name != key and name != _OF_THE_HOST and not name.startswith(_OVERLAY):
            yield name, value


def _set(path: str | int, name: bytes, value: bytes, *, follow: bool) -> None:
    """Set an extended attribute; what this file system or this user cannot have is left out, as by everybody else."""
    try:
        os.setxattr(path, name, value, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENOTSUP and not (error.errno == errno.EPERM and os.geteuid() != 0):
            raise
