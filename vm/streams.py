"""The command's streams, while a process of ours is there to carry them.

Output comes from the files that QEMU writes, so nothing is lost when nobody reads; standard input
goes through a socket and never blocks the rest.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path


class Follow:
    """Copies what a growing file gains to a descriptor, byte for byte."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._target: int | None = descriptor

    def copy(self) -> None:
        """Copy all that is there. A reader that has gone away is written to no more."""
        while data := os.read(self._source, 1 << 16):
            while data and self._target is not None:
                try:
                    data = data[os.write(self._target, data) :]
                except BrokenPipeError:
                    self._target = None
            if self._target is None:
                return

    def close(self) -> None:
        os.close(self._source)


class Feed:
    """Passes a descriptor's bytes on to the guest's standard input, then says how many there were."""

    def __init__(self, descriptor: int, path: Path, say_eof: Callable[[int], None]) -> None:
        self._source: int | None = descriptor
        self._say_eof = say_eof
        self._pending = b""
        self._total = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.connect(str(path))
        self.socket.setblocking(False)

    @property
    def reads(self) -> int | None:
        """The descriptor to wait for, while there is room for its bytes."""
        return None if self._pending else self._source

    @property
    def writes(self) -> int | None:
        """The descriptor to wait for, while bytes wait to be sent."""
        return self.socket.fileno() if self._pending else None

    def move(self) -> None:
        """Move what is ready."""
        if not self._pending and self._source is not None:
            try:
                self._pending = os.read(self._source, 1 << 16)
            except BlockingIOError:
                return
            except OSError:
                self._pending = b""
            if not self._pending:
                self._source = None
                self._say_eof(self._total)
                return
        with contextlib.suppress(BlockingIOError):
            sent = self.socket.send(self._pending)
            self._pending = self._pending[sent:]
            self._total += sent

    def stop(self) -> None:
        """Give up: the guest has gone."""
        self._source, self._pending = None, b""

    def close(self) -> None:
        self.socket.close()


class Wakeups:
    """Waits until QEMU wrote to one of the files, ended, or a stream can move."""

    def __init__(self, paths: list[Path], pid: int | None) -> None:
        import inotify_simple

        self._inotify = inotify_simple.INotify()
        for path in paths:
            with contextlib.suppress(OSError):
                self._inotify.add_watch(path, inotify_simple.flags.MODIFY)
        self._pidfd = None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(pid)

    def wait(self, feed: Feed | None, timeout: float | None) -> None:
        poll = select.poll()
        poll.register(self._inotify.fileno(), select.POLLIN)
        if self._pidfd is not None:
            poll.register(self._pidfd, select.POLLIN)
        if feed is not None and feed.reads is not None:
            poll.register(feed.reads, select.POLLIN)
        if feed is not None and feed.writes is not None:
            poll.register(feed.writes, select.POLLOUT)
        ready = {descriptor for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000)}
        if self._inotify.fileno() in ready:
            self._inotify.read(timeout=0)
        if feed is not None and ready & {feed.reads, feed.writes}:
            try:
                feed.move()
            except OSError:
                feed.stop()

    def close(self) -> None:
        self._inotify.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
