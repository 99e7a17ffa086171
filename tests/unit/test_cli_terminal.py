"""The terminal: raw only while a command has it, whichever way that ends; keys that detach; sizes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress

import pytest
import typer

from hybrid.cli import terminal
from hybrid.cli.terminal import keys, scan


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a", b"a"),
        ("ctrl-[,x", b"\x1bx"),
        ("ctrl-@", b"\0"),
        ("ctrl-A", b"\x01"),
        ("", b""),
    ],
)
def test_keys(text: str, found: bytes) -> None:
    assert keys(text) == found


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "a,,b", "shift-a", "é"])
def test_keys_that_are_none(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        keys(text)


@pytest.mark.parametrize(
    ("data", "passed", "held", "found"),
    [
        (b"abc", b"abc", b"", False),
        (b"ab\x10", b"ab", b"\x10", False),
        (b"\x10\x10", b"\x10", b"\x10", False),
        (b"\x10x", b"\x10x", b"", False),
        (b"x\x10\x11y", b"x", b"", True),
        (b"\x10\x10\x11", b"\x10", b"", True),
        (b"", b"", b"", False),
    ],
)
def test_scanning(data: bytes, passed: bytes, held: bytes, found: bool) -> None:
    assert scan(data, b"\x10\x11") == (passed, held, found)


PROGRAM = """
import os, signal, sys, time
from hybrid.cli import terminal
from hybrid.interrupt import Interrupts
with Interrupts():
    try:
        with terminal.joined(terminal=True, stdin=True, detach=terminal.keys(sys.argv[2])) as stdio:
            os.write(1, b"ready")
            exec(sys.argv[1])
    except terminal.Detached:
        os.write(1, b"detached")
"""


class Screen:
    """A program on a terminal of its own."""

    def __init__(self, words: list[str]) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.child = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def until(self, word: bytes) -> bytes:
        """All that is shown until it says so."""
        shown = b""
        while word not in shown:
            shown += os.read(self.master, 4096)
        return shown

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.child.kill()
        self.child.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def screen() -> Iterator[object]:
    made: list[Screen] = []

    def make(code: str, detach: str = "ctrl-p,ctrl-q") -> Screen:
        made.append(Screen([sys.executable, "-c", PROGRAM, code, detach]))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("pass", None),
        ("raise ValueError", None),
        ("signal.pause()", signal.SIGTERM),
        ("signal.pause()", signal.SIGHUP),
        ("signal.pause()", signal.SIGINT),
    ],
)
def test_the_terminal_is_as_it_was(screen: object, code: str, number: int | None) -> None:
    shown: Screen = screen(code)  # type: ignore[operator]
    shown.until(b"ready")
    if number is not None:
        assert termios.tcgetattr(shown.slave) != shown.before
        shown.child.send_signal(number)
    shown.child.wait(30)
    assert termios.tcgetattr(shown.slave) == shown.before


def test_keys_reach_the_command_and_detach(screen: object) -> None:
    code = "os.write(1, os.read(stdio.stdin, 9)); signal.pause()"
    shown: Screen = screen(code)  # type: ignore[operator]
    shown.until(b"ready")
    os.write(shown.master, b"\x03a\x10b\r")
    assert b"\x03a\x10b" in shown.until(b"b")
    os.write(shown.master, b"\x10\x11")
    shown.until(b"detached")
    assert shown.child.wait(30) == 0
    assert termios.tcgetattr(shown.slave) == shown.before


def test_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: False)
    terminal.check(True, False)
    terminal.check(False, True)
    with pytest.raises(typer.BadParameter, match="not a TTY"):
        terminal.check(True, True)
    with terminal.joined(terminal=False, stdin=False) as stdio:
        assert stdio.stdin < 0
