"""Telling a person what is being done: a spinner or a bar on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import ConsoleRenderable


class Progress(Protocol):
    """Hears what happens."""

    def step(self, text: str) -> None:
        """`text` is what is being done from now on."""

    def amount(self, text: str, total: int, done: Callable[[], int]) -> None:
        """Likewise, and of `total` bytes as many as `done` says are there: it is asked whenever that is shown."""


class Quiet:
    """Says nothing."""

    def step(self, text: str) -> None:
        pass

    def amount(self, text: str, total: int, done: Callable[[], int]) -> None:
        pass


@contextmanager
def shown() -> Iterator[Progress]:
    """Progress on standard error while the block runs, if that is a terminal. It leaves no trace after."""
    if not sys.stderr.isatty():
        yield Quiet()
        return
    from rich.console import Console
    from rich.live import Live

    display = _Display()
    with Live(get_renderable=display.now, console=Console(stderr=True), transient=True, refresh_per_second=8):
        yield display


class _Display:
    """What is shown now: a spinner and its text, with a bar below it where an amount is known."""

    def __init__(self) -> None:
        from rich.spinner import Spinner

        self._spinner = Spinner("dots")
        self._amount: tuple[int, Callable[[], int]] | None = None

    def step(self, text: str) -> None:
        from rich.text import Text

        self._amount = None
        self._spinner.update(text=Text(_printable(text)))

    def amount(self, text: str, total: int, done: Callable[[], int]) -> None:
        self.step(text)
        self._amount = (total, done) if total > 0 else None

    def now(self) -> ConsoleRenderable:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        if self._amount is None:
            return self._spinner
        total, done = self._amount
        there = min(done(), total)
        figures = Text(f"{there / 1e6:.1f} of {total / 1e6:.1f} MB")
        return Group(self._spinner, ProgressBar(total=total, completed=there, width=40), figures)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
