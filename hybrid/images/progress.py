"""Telling a person what is being done: a spinner on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Hears what happens."""

    def step(self, text: str) -> None:
        """`text` is what is being done from now on."""


class Quiet:
    """Says nothing."""

    def step(self, text: str) -> None:
        pass


@contextmanager
def shown() -> Iterator[Progress]:
    """Progress on standard error while the block runs, if that is a terminal. It leaves no trace after."""
    if not sys.stderr.isatty():
        yield Quiet()
        return
    from rich.console import Console

    with Console(stderr=True).status("", spinner="dots") as status:

        class Spinner:
            def step(self, text: str) -> None:
                status.update(text.replace("[", r"\["))

        yield Spinner()
