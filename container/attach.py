"""Streams joined to a command that was started detached: what its monitor logs from now on, and its input."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from container import log
from container.terminal import write_all

if TYPE_CHECKING:
    from container.conmon import Conmon
    from hybrid.driver import Stdio

_PACKET = 4096
"""Bytes of input at a time; the monitor cuts what is much longer."""
_END_OF_TRANSMISSION = b"\x04"


class Attachment:
    """What serves the streams. Output comes from the log, which loses nothing and holds nobody up."""

    def __init__(self, conmon: Conmon, stdio: Stdio, finished: Callable[[], object], *, feed: bool, tty: bool) -> None:
        """With `feed` the command's input is fed. `finished` returns when its last output is in the log."""
        self._reader = log.Reader(conmon.log, log.end(conmon.log))
        self._watch = log.Watch(conmon.directory)
        self._streams = {1: stdio.stdout, 2: stdio.stderr}
        self._finished = finished
        self._tty = tty
        self._stdin = stdio.stdin if feed else -1
        self._pending: list[bytes] = []
        self._socket: socket.socket | None = None
        if self._stdin >= 0:
            try:
                self._socket = _connect(conmon)
            except BaseException:
                self.close()
                raise

    def serve(self, ended: int, timeout: float | None) -> bool:
        """Pass bytes both ways until the process of the pidfd `ended` has ended and its output is through.

        False after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._pass_output()
            poller = select.poll()
            poller.register(ended, select.POLLIN)
            poller.register(self._watch.fileno(), select.POLLIN)
            if self._socket is not None and self._pending:
                poller.register(self._socket, select.POLLOUT)
            elif self._stdin >= 0:
                poller.register(self._stdin, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = dict(poller.poll(left))
            if not ready:
                return False
            if ended in ready:
                break
            if self._watch.fileno() in ready:
                self._watch.clear()
            if self._stdin in ready:
                self._take_input()
            self._feed()
        self._finished()
        self._pass_output()
        return True

    def close(self) -> None:
        self._watch.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _pass_output(self) -> None:
        for part in self._reader.parts():
            write_all(self._streams[part.stream], part.data)

    def _take_input(self) -> None:
        try:
            data = os.read(self._stdin, _PACKET)
        except OSError:
            data = b""
        if data:
            self._pending.append(data)
            return
        self._stdin = -1
        if self._tty:
            self._pending.append(_END_OF_TRANSMISSION)
        elif self._socket is not None:
            self._socket.shutdown(socket.SHUT_WR)

    def _feed(self) -> None:
        if self._socket is not None and self._pending:
            with suppress(BlockingIOError, BrokenPipeError):
                self._socket.send(self._pending[0])
                self._pending.pop(0)


def _connect(conmon: Conmon) -> socket.socket:
    """A connection through which the command's input goes; what comes back through it is not wanted."""
    directory = os.open(conmon.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/attach")
        connection.shutdown(socket.SHUT_RD)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection
