"""Times in an ext4 file system that mke2fs made of a tree: it keeps whole seconds until 2038 only.

What it loses is put right through libext2fs, which comes with it, file by file where there is something to mend.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybrid.errors import ToolError

_READ_WRITE = 0x01
_64_BITS = 0x20000
_ROOT_INODE = 2
_INODE_SIZE = 256
_MTIME, _MTIME_EXTRA = 0x10, 0x88
_ATIME, _ATIME_EXTRA = 0x08, 0x8C

_Inode = ctypes.c_uint32


def mend(tree: Path, path: Path, offset: int = 0) -> bool:
    """Give the files in the file system, `offset` bytes into `path`, the times of those in `tree`; whether any had to.

    ToolError when it is no file system of that tree.
    """
    wrong = any(_is_lost(status) for _, status in _walk(os.fsencode(tree)))
    if wrong:
        with _opened(path, offset) as system:
            system.mend(os.fsencode(tree))
    return wrong


def _is_lost(status: os.stat_result) -> bool:
    """Whether mke2fs loses something of a file's time."""
    return status.st_mtime_ns % 10**9 != 0 or not -(2**31) <= status.st_mtime_ns // 10**9 < 2**31


def _walk(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    left = [top]
    yield top, os.lstat(top)
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                yield entry.path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)


class _System:
    """An open file system."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def mend(self, top: bytes) -> None:
        inodes = {top: _ROOT_INODE}
        for path, status in _walk(top):
            above, _, name = path.rpartition(b"/")
            inode = inodes.get(path) or self._look_up(inodes[above], name)
            if stat.S_ISDIR(status.st_mode):
                inodes[path] = inode
            if _is_lost(status):
                self._set(inode, status.st_mtime_ns)

    def _look_up(self, directory: int, name: bytes) -> int:
        found = _Inode()
        arguments = (self._handle, _Inode(directory), name, len(name), None, ctypes.byref(found))
        _check(self._library.ext2fs_lookup(*arguments))
        return found.value

    def _set(self, inode: int, nanoseconds: int) -> None:
        data = ctypes.create_string_buffer(_INODE_SIZE)
        arguments = (self._handle, _Inode(inode), data, _INODE_SIZE)
        _check(self._library.ext2fs_read_inode_full(*arguments))
        seconds, rest = divmod(nanoseconds, 10**9)
        low, extra = encode(seconds, rest)
        for at in (_MTIME, _ATIME):
            struct.pack_into("<I", data, at, low)
        for at in (_MTIME_EXTRA, _ATIME_EXTRA):
            struct.pack_into("<I", data, at, extra)
        _check(self._library.ext2fs_write_inode_full(*arguments))


def encode(seconds: int, nanoseconds: int) -> tuple[int, int]:
    """The two 32-bit fields of an ext4 time: the low seconds; and the nanoseconds above two bits more of seconds.

    The low field is signed: the two bits count how often 2**32 has to be added to it.
    """
    low = seconds & 0xFFFFFFFF
    signed = low - 2**32 if low >= 2**31 else low
    return low, (nanoseconds << 2) | ((seconds - signed) >> 32 & 3)


@contextmanager
def _opened(path: Path, offset: int) -> Iterator[_System]:
    library = ctypes.CDLL("libext2fs.so.2")
    for name in ("open2", "close", "lookup", "read_inode_full", "write_inode_full"):
        getattr(library, f"ext2fs_{name}").restype = ctypes.c_long
    manager = ctypes.c_void_p.in_dll(library, "unix_io_manager")
    handle = ctypes.c_void_p()
    options = f"offset={offset}".encode()
    flags = _READ_WRITE | _64_BITS
    with path.open("r+b") as file:
        device = f"/proc/self/fd/{file.fileno()}".encode()
        _check(library.ext2fs_open2(device, options, flags, 0, 0, manager, ctypes.byref(handle)))
        try:
            yield _System(library, handle)
        finally:
            code = library.ext2fs_close(handle)
        _check(code)


def _check(code: int) -> None:
    if code:
        what = os.strerror(code) if code < 4096 else f"error {code:#x}"
        raise ToolError(f"libext2fs: {what}", returncode=1, stderr=what)
