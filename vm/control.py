"""Talking to a guest's init: one short connection for each line, so any process may speak, and any thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

SPEECH = 10.0
"""Seconds that the guest's init may take to hear one line."""
_LONGEST_ANSWER = 64


class Control:
    """The way to the init, which must be up (mark INIT) to hear anything."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._speaking = threading.Lock()

    def say(self, line: str) -> None:
        """Return when the init has heard it. Nothing happens when it has gone."""
        self.ask(line)

    def ask(self, line: str) -> bytes:
        """The init's answer; empty when it has none, or has gone."""
        answer = b""
        with (
            self._speaking,
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control,
        ):
            control.settimeout(SPEECH)
            control.connect(str(self._path))
            control.sendall(line.encode() + b"\n")
            while not answer.endswith(b"+") and len(answer) < _LONGEST_ANSWER and (byte := control.recv(1)):
                answer += byte
        return answer.removesuffix(b"+")
