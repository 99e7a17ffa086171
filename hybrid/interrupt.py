"""Ctrl-C while instances run: the first signal ends the work, none of them ends the cleaning up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_in_place: list[Interrupts] = []
"""Those whose handlers are set, the innermost last."""


class Interrupts:
    """Turns the first signal that asks us to end into one KeyboardInterrupt, outside of shielded blocks.

    As a context manager it puts its handlers in place and, at the end, those that were there before.
    A signal that we inherited as ignored (nohup) stays ignored. In a thread other than the main one,
    which gets no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that came; None as long as none has."""
        self._raised = False
        self._depth = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self.handle)
            _in_place.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self in _in_place:
            _in_place.remove(self)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """A block that runs to its end; a signal that came meanwhile takes effect when it is over."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        self._take_effect()

    @contextmanager
    def expose(self) -> Iterator[None]:
        """A part of a shielded block that a signal may end, at once if it came before.

        What the exception then meets on its way out is shielded again, without a gap between.
        """
        depth, self._depth = self._depth, 0
        try:
            self._take_effect()
            yield
        finally:
            self._depth = depth

    def handle(self, number: int, _frame: FrameType | None = None) -> None:
        """A signal came: the first takes effect now, or when the shielded block is over."""
        self.number = self.number or number
        self._take_effect()

    def _take_effect(self) -> None:
        if self.number is not None and not self._raised and self._depth == 0:
            self._raised = True
            raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[None]:
    """A few steps that belong together, such as starting a program and taking it over, for whoever interrupts."""
    if _in_place and threading.current_thread() is threading.main_thread():
        with _in_place[-1].shield():
            yield
    else:
        yield
