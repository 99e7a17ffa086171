"""A command's terminal: its master, held here and joined to the caller's streams, byte by byte as they come."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybrid.driver import Size, Stdio

_CHUNK = 65536
_REOPENED = 0.1
"""Seconds between looks at a terminal that no program has open."""


class Terminal:
    """The master's side of a terminal. Served by one thread; `resize` is safe from any."""

    def __init__(self, master: int, stdio: Stdio) -> None:
        self._master = master
        os.set_blocking(master, False)
        self._stdin = stdio.stdin
        self._stdout = stdio.stdout
        self._pending = b""
        """Input that the terminal has not taken yet."""
        self._last = b"\n"

    def resize(self, size: Size) -> None:
        if self._master >= 0:
            set_size(self._master, size)

    def serve(self, ended: int, timeout: float | None) -> bool:
        """Pass bytes both ways until the process of the pidfd `ended` has ended and its output is through.

        False after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        over = False
        while self._master >= 0:
            poller = select.poll()
            if not over:
                poller.register(ended, select.POLLIN)
            poller.register(self._master, select.POLLIN | (select.POLLOUT if self._pending else 0))
            if self._stdin >= 0 and not self._pending and not over:
                poller.register(self._stdin, select.POLLIN)
            left = 0 if over else None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = dict(poller.poll(left))
            if not ready:
                return over
            over = over or ended in ready
            if self._stdin in ready:
                self._take_input()
            if self._master in ready:
                self._move(ready[self._master], ended, over)
        return over or _has_ended(ended, deadline)

    def close(self) -> None:
        if self._master >= 0:
            master, self._master = self._master, -1
            os.close(master)

    def _take_input(self) -> None:
        try:
            data = os.read(self._stdin, _CHUNK)
        except OSError:
            data = b""
        if data:
            self._pending, self._last = data, data[-1:]
        else:
            self._stdin = -1
            self._pending = end_of_input(self._master, self._last)

    def _move(self, events: int, ended: int, over: bool) -> None:
        if events & select.POLLOUT and self._pending:
            with suppress(BlockingIOError):
                self._pending = self._pending[os.write(self._master, self._pending) :]
        if events & select.POLLIN:
            with suppress(BlockingIOError, OSError):
                write_all(self._stdout, os.read(self._master, _CHUNK))
        elif events & select.POLLHUP:  # nobody has the terminal open now: final only once the program has ended
            if over:
                self.close()
            else:
                _has_ended(ended, time.monotonic() + _REOPENED)  # nothing tells when somebody opens it again


def _has_ended(pidfd: int, deadline: float | None) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000))


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, also to a descriptor that somebody has made non-blocking."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(descriptor, select.POLLOUT)
            poller.poll()


def end_of_input(master: int, last: bytes) -> bytes:
    """What tells a program that reads lines from a terminal that its input ends; nothing for one that reads bytes.

    The character ends a line that was begun, and only at the start of one it ends the input.
    """
    attributes = termios.tcgetattr(master)
    if not attributes[3] & termios.ICANON:
        return b""
    character: bytes = attributes[6][termios.VEOF]
    return character if last == b"\n" else character * 2


def set_size(descriptor: int, size: Size) -> None:
    """Give a terminal a size; its foreground processes get SIGWINCH when it is another one."""
    with suppress(OSError):
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


class ConsoleSocket:
    """Where an OCI runtime delivers the master of the terminal that it makes: a socket in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / name
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # By the descriptor: a socket's path is at most 107 bytes long.
        self.path = f"/proc/{os.getpid()}/fd/{self._directory}/{name}"
        """What to tell the runtime."""
        self._path.unlink(missing_ok=True)
        try:
            self._socket.bind(self.path)
            self._socket.listen(1)
            self._socket.setblocking(False)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ConsoleSocket:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        if self._directory >= 0:
            self._socket.close()
            os.close(self._directory)
            self._directory = -1
            self._path.unlink(missing_ok=True)

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> int | None:
        """The master, if it was delivered."""
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return None
        with connection:
            connection.setblocking(True)
            size = array.array("i").itemsize
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                return int(array.array("i", data[:size])[0])
        return None


def open_pair(uid: int, size: Size | None) -> tuple[int, int]:
    """A new terminal of this host, given to a user: its master, and the descriptor for the program."""
    master, slave = os.openpty()
    os.fchown(slave, uid, -1)
    if size is not None:
        set_size(master, size)
    return master, slave


def take(slave: int) -> None:
    """Make a terminal this process's own. It must lead a session."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
