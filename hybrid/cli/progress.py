"""Progress of long work on images, shown to a person. An image that is there already costs no import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybrid.images.progress import Progress


class _Late:
    """Opens the display when there is a first step to show."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._shown: Progress | None = None

    def step(self, text: str) -> None:
        self._display().step(text)

    def amount(self, text: str, total: int, done: Callable[[], int]) -> None:
        self._display().amount(text, total, done)

    def _display(self) -> Progress:
        from hybrid.images.progress import shown

        if self._shown is None:
            self._shown = self._stack.enter_context(shown())
        return self._shown


@contextmanager
def progress() -> Iterator[Progress]:
    """What hears of the steps while the block runs. On a terminal it shows them and leaves no trace."""
    with ExitStack() as stack:
        yield _Late(stack)
