"""The moment of execve, and who made whom, told by the kernel.

The kernel's process connector reports each execve on the host with its own CLOCK_MONOTONIC stamp. So
the mark ENTRYPOINT holds for any runtime and however late we read it. The signs that runtimes give are
not as good: their own end comes from some milliseconds before the execve to some after it, and a
descriptor that execve closes stays open in the runtime's other processes (crun run) or is closed
before (runc start).

A runtime forks workers that it leaves to whoever adopts them; that they were its own is known from here only.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

_CONNECTOR = 11
"""NETLINK_CONNECTOR, with the index and value of the process connector."""
_INDEX = _VALUE = 1
_LISTEN = 1
_FORK, _EXEC = 0x00000001, 0x00000002
_NETLINK = struct.Struct("=IHHII")
_MESSAGE = struct.Struct("=IIIIHH")
_EVENT = struct.Struct("=IIQ")
_EXECUTED = struct.Struct("=II")  # pid, process
_FORKED = struct.Struct("=IIII")  # parent's pid, parent process, child's pid, child process
_BUFFER = 4 << 20


class ProcessEvents:
    """Collects the forks and execves of the whole host from the moment it is made until it is closed.

    Where the kernel does not tell (no CAP_NET_ADMIN, a namespace of our own, no CONFIG_PROC_EVENTS),
    `nth` knows nothing.
    """

    def __init__(self) -> None:
        self._seen: dict[int, list[int]] = {}
        self._made: dict[int, list[int]] = {}
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _CONNECTOR)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, _INDEX))
            self._listen()
            self._socket.setblocking(False)
        except OSError:
            self.close()

    def __enter__(self) -> ProcessEvents:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def listens(self) -> bool:
        """Whether the kernel tells us."""
        return self._socket is not None

    def nth(self, pid: int, number: int = 0) -> int | None:
        """When a process executed its first program (or one after it), in ns of CLOCK_MONOTONIC; None if unknown."""
        self._drain()
        stamps = self._seen.get(pid, [])
        return stamps[number] if number < len(stamps) else None

    def descendants(self, pid: int) -> list[int]:
        """The processes made by a process, and by those, since we listen; most have ended by now."""
        self._drain()
        found = list(self._made.get(pid, ()))
        for child in found:
            found += self._made.get(child, ())
        return found

    def wait(self, pid: int, timeout: float | None) -> int | None:
        """The same of the first program, waited for; None when the process ended without, time is over, or unknown."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return self.nth(pid)
        try:
            while (at := self.nth(pid)) is None and self._socket is not None:
                poller = select.poll()
                poller.register(handle, select.POLLIN)
                poller.register(self._socket, select.POLLIN)
                left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
                ready = poller.poll(left)
                if not ready or ready == [(handle, select.POLLIN)]:
                    return self.nth(pid)
            return at
        finally:
            os.close(handle)

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
        if len(data) < at + _EVENT.size + _FORKED.size:
            return
        what, _, stamp = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        if what == _EXEC:
            self._seen.setdefault(_EXECUTED.unpack_from(data, at)[1], []).append(stamp)
        elif what == _FORK:
            _, parent, child, process = _FORKED.unpack_from(data, at)
            if child == process:  # not a thread
                self._made.setdefault(parent, []).append(child)

    def _listen(self) -> None:
        assert self._socket is not None
        body = _MESSAGE.pack(_INDEX, _VALUE, 0, 0, 4, 0) + struct.pack("=I", _LISTEN)
        self._socket.send(_NETLINK.pack(_NETLINK.size + len(body), 3, 0, 0, os.getpid()) + body)
