"""The moment of execve, told by the kernel.

The kernel's process connector reports each execve on the host with its own CLOCK_MONOTONIC stamp. So
the mark ENTRYPOINT holds for any runtime and however late we read it. Signs that a runtime gives are
not as good: its own end comes up to some milliseconds late, a descriptor that execve closes stays open in
the runtime's other processes (crun run) or is closed before (runc start).
"""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType

_CONNECTOR = 11
"""NETLINK_CONNECTOR, with the index and value of the process connector."""
_INDEX = _VALUE = 1
_LISTEN, _IGNORE = 1, 2
_EXEC = 0x00000002
_NETLINK = struct.Struct("=IHHII")
_MESSAGE = struct.Struct("=IIIIHH")
_EVENT = struct.Struct("=IIQ")
_EXECUTED = struct.Struct("=II")
_BUFFER = 4 << 20


class Execs:
    """Collects the execves of the whole host from the moment it is made until it is closed.

    Where the kernel does not tell (no CAP_NET_ADMIN, a namespace of our own, no CONFIG_PROC_EVENTS),
    `first` knows nothing.
    """

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _CONNECTOR)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, _INDEX))
            self._ask(_LISTEN)
            self._socket.setblocking(False)
        except OSError:
            self.close()

    def __enter__(self) -> Execs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def listens(self) -> bool:
        """Whether the kernel tells us."""
        return self._socket is not None

    def first(self, pid: int) -> int | None:
        """When a process executed a program for the first time, in ns of CLOCK_MONOTONIC; None if unknown."""
        self._drain()
        return self._seen.get(pid)

    def _drain(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the host made more processes than fit; what is lost is unknown
                self._seen.clear()
                self.close()
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        at = _NETLINK.size + _MESSAGE.size
        if len(data) < at + _EVENT.size + _EXECUTED.size:
            return
        what, _, stamp = _EVENT.unpack_from(data, at)
        if what == _EXEC:
            self._seen.setdefault(_EXECUTED.unpack_from(data, at + _EVENT.size)[1], stamp)

    def _ask(self, operation: int) -> None:
        assert self._socket is not None
        body = _MESSAGE.pack(_INDEX, _VALUE, 0, 0, 4, 0) + struct.pack("=I", operation)
        self._socket.send(_NETLINK.pack(_NETLINK.size + len(body), 3, 0, 0, os.getpid()) + body)
