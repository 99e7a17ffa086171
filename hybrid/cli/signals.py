"""Signals that go on to the command we run. What they do to hybrid's own work is in hybrid.interrupt."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hybrid.interrupt import SIGNALS

FORWARDED = (*SIGNALS, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def forwarded(send: Callable[[int], None]) -> Iterator[None]:
    """Within the block signals go to `send`, one after the other, on a thread of their own.

    So `send` may take locks and write to channels that the main thread uses at that moment. The
    signals are caught, not blocked: a blocked one would stay blocked in every program we start.
    One that we inherited as ignored (nohup) stays ignored.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    worker = threading.Thread(target=_pass_on, args=(reader, send), daemon=True)
    worker.start()
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.getsignal(number) for number in FORWARDED}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _caught)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        worker.join()
        os.close(reader)


def _pass_on(reader: int, send: Callable[[int], None]) -> None:
    """Send each signal whose number comes through the pipe, until the pipe is closed."""
    while number := os.read(reader, 1):
        if number[0] in FORWARDED:
            with suppress(Exception):  # the command has ended, or its engine listens no more
                send(number[0])


def _caught(number: int, frame: FrameType | None) -> None:
    """Nothing: the interpreter has written the number to the wake-up pipe before it calls this."""
