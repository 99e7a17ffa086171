"""The terminal that a command is shown on: raw while the command has it, and as it was, whichever way that ends.

With a terminal of its own a command gets every key as it is, Ctrl-C included. One sequence of keys may be
ours: it detaches from the command and lets it run on.
"""

from __future__ import annotations

import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import typer

from hybrid.driver import Size, Stdio

DETACH_KEYS = "ctrl-p,ctrl-q"
_USUAL = Size(24, 80)
"""Of a terminal that nobody looks at."""
_WAKE = signal.SIGURG
"""Wakes the main thread; by itself it does nothing to a process."""


class Detached(Exception):
    """The person at the terminal has typed the keys that leave the command alone."""


def check(terminal: bool, stdin: bool) -> None:
    """Docker's word for a terminal that is asked for where there is none to type on."""
    if terminal and stdin and not os.isatty(0):
        raise typer.BadParameter("the input device is not a TTY", param_hint="--tty with --interactive")


def window() -> Size:
    """The size of the terminal that we are on."""
    for descriptor in (1, 0, 2):
        with suppress(OSError):
            found = os.get_terminal_size(descriptor)
            if found.lines and found.columns:
                return Size(found.lines, found.columns)
    return _USUAL


def keys(text: str) -> bytes:
    """The bytes of a sequence such as `ctrl-p,ctrl-q` or `a,ctrl-\\`; none if it is empty."""
    found = b""
    for key in text.split(",") if text else ():
        name = key.removeprefix("ctrl-")
        if len(name) != 1 or not name.isascii() or (name != key and name.upper() not in _CONTROLS):
            raise typer.BadParameter(
                f"{key!r} is no key; write a letter, or ctrl- and a letter or one of @ [ \\ ] ^ _",
                param_hint="--detach-keys",
            )
        found += name.encode() if name == key else bytes([ord(name.upper()) & 0x1F])
    return found


_CONTROLS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ@[\\]^_")


@contextmanager
def raw() -> Iterator[None]:
    """The terminal on standard input, raw within the block; nothing happens when it is none."""
    try:
        before = termios.tcgetattr(0)
    except termios.error:
        yield
        return
    try:
        tty.setraw(0, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):  # it has hung up
            termios.tcsetattr(0, termios.TCSANOW, before)


@contextmanager
def joined(*, terminal: bool, stdin: bool, detach: bytes = b"") -> Iterator[Stdio]:
    """Our standard streams for a command, with `terminal` as its terminal.

    When the keys `detach` are typed, what waits in the main thread is interrupted by Detached.
    """
    if not (stdin and terminal):
        yield Stdio(0 if stdin else -1, 1, 2)
        return
    with raw():
        if not detach or not os.isatty(0):
            yield Stdio(0, 1, 2)
            return
        with _typed(detach) as descriptor:
            yield Stdio(descriptor, 1, 2)


@contextmanager
def _typed(detach: bytes) -> Iterator[int]:
    """A pipe with all that is typed, up to the keys that detach."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    ending, end = os.pipe2(os.O_CLOEXEC)
    before = signal.signal(_WAKE, _interrupt)
    worker = threading.Thread(target=_type, args=(writer, ending, detach, threading.main_thread()), daemon=True)
    worker.start()
    try:
        yield reader
    finally:
        os.close(end)
        os.close(reader)
        worker.join()
        signal.signal(_WAKE, before)
        os.close(ending)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Detached


def _type(writer: int, ending: int, detach: bytes, main: threading.Thread) -> None:
    """Pass on what is typed. What may become the keys is held back until it does not."""
    held = b""
    try:
        while True:
            ready, _, _ = select.select([0, ending], [], [])
            data = b"" if ending in ready else os.read(0, 65536)
            if not data:
                _write(writer, held)
                return
            passed, held, found = scan(held + data, detach)
            _write(writer, passed)
            if found:
                signal.pthread_kill(main.ident or 0, _WAKE)
                return
    except OSError:
        pass  # the terminal has hung up, or the command reads no more
    finally:
        os.close(writer)


def scan(data: bytes, detach: bytes) -> tuple[bytes, bytes, bool]:
    """What of `data` goes on, what is held back as the start of the keys, and whether they are there."""
    at = data.find(detach)
    if at >= 0:
        return data[:at], b"", True
    held = next((length for length in range(len(detach) - 1, 0, -1) if data.endswith(detach[:length])), 0)
    return data[: len(data) - held], data[len(data) - held :], False


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
