"""Opening files below a root directory that is somebody else's: no link leads out of it."""

from __future__ import annotations

import ctypes
import errno
import os

_SYS_OPENAT2 = 437
_NO_MAGIC_LINKS, _IN_ROOT = 0x02, 0x10

_TRIES = 1000
"""The kernel says EAGAIN to a path with `..` when anything on the machine was renamed meanwhile."""

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in(root: int, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor of `path` as a process whose root directory is `root` would open it; OSError as open(2) has it."""
    how = _OpenHow(flags=flags, mode=mode, resolve=_IN_ROOT | _NO_MAGIC_LINKS)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    for _ in range(_TRIES):
        descriptor: int = _libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), size)
        if descriptor >= 0:
            return descriptor
        if (code := ctypes.get_errno()) != errno.EAGAIN:
            break
    raise OSError(code, os.strerror(code), path)
