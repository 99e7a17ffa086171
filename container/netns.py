"""A container's network namespace, made before the runtime starts, so that it can be joined to networks first.

It belongs to the container's user namespace, as one that the runtime makes would: the same capabilities
mean the same in it. Both are shown to the runtime as files that only its private mount namespace has, so
nothing keeps them when the container's processes have ended.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from container.mounts import CLONE_NEWUSER
from hybrid.errors import HostError
from hybrid.mounts import MS_BIND, mount

_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def create(userns: int | None) -> int:
    """The descriptor of a new network namespace, of a user namespace's (the host's if None). The caller closes it."""
    released, release = os.pipe2(os.O_CLOEXEC)
    made, making = os.pipe2(os.O_CLOEXEC)
    with ExitStack() as stack:
        stack.callback(os.close, released)
        stack.callback(os.close, made)
        pid = os.fork()
        if pid == 0:
            _live_in_network_namespace(userns, making, released, release)
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.close, release)
        os.close(making)
        if code := int(os.read(made, 16) or str(errno.EAGAIN)):
            raise HostError(
                f"the kernel refuses a network namespace: {os.strerror(code)}",
                mend="raise /proc/sys/user/max_net_namespaces, or set network_mode to host",
            )
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _live_in_network_namespace(userns: int | None, making: int, released: int, release: int) -> None:
    """The child of `create`: enter the user namespace, make the other, say so, and end when the parent lets go."""
    try:
        os.close(release)
        code = 0
        if (userns is not None and _libc.setns(userns, CLONE_NEWUSER)) or _libc.unshare(_CLONE_NEWNET):
            code = ctypes.get_errno()
        os.write(making, str(code).encode())
        os.close(making)
        os.read(released, 1)
    finally:
        os._exit(0)


def paths(directory: Path, ids: bool) -> dict[str, Path]:
    """Where the runtime finds the namespaces of the container in that directory, by their OCI names."""
    return {name: directory / "ns" / name for name in ("network", *(["user"] if ids else []))}


def show(directory: Path, namespaces: Mapping[str, int]) -> None:
    """Mount namespaces (descriptors by name) where `paths` says, in this thread's mount namespace."""
    for name, descriptor in namespaces.items():
        path = paths(directory, True)[name]
        path.parent.mkdir(exist_ok=True)
        path.touch()
        mount(f"/proc/self/fd/{descriptor}", path, None, MS_BIND)
