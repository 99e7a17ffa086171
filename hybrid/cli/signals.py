"""Signals that go on to the command we run. What they do to hybrid's own work is in hybrid.interrupt."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeAlias

from hybrid.interrupt import SIGNALS, Interrupts

FORWARDED = (*SIGNALS, signal.SIGUSR1, signal.SIGUSR2)
PATIENCE = 0.5
"""Seconds for which a signal that asks us to end waits for a command that is about to be executed."""

Send: TypeAlias = Callable[[int], None]
_Handler: TypeAlias = Callable[[int, FrameType | None], Any]


@contextmanager
def forwarded(send: Send) -> Iterator[Send]:
    """Within the block signals go to `send`, one after the other, on a thread of their own.

    Yields what puts a signal in that queue. So `send` may take locks and write to channels that the
    main thread uses at that moment. The signals are caught, not blocked: a blocked one would stay
    blocked in every program we start. One that we inherited as ignored (nohup) stays ignored.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    worker = threading.Thread(target=_pass_on, args=(reader, send), daemon=True)
    worker.start()

    def queue(number: int, _frame: FrameType | None = None) -> None:
        with suppress(BlockingIOError):  # 65536 signals wait already
            os.write(writer, bytes([number]))

    try:
        with _handling(FORWARDED, queue):
            yield queue
    finally:
        os.close(writer)
        worker.join()
        os.close(reader)


@contextmanager
def held(interrupts: Interrupts) -> Iterator[list[int]]:
    """Within the block, which ends when the command is executed, signals wait for it; yields those that came.

    For somebody who has seen the command's first output it runs already. But one that asks us to end
    waits no longer than PATIENCE: then it interrupts what `interrupts` does not shield.
    """
    waiting: list[int] = []

    def wait(number: int, _frame: FrameType | None) -> None:
        waiting.append(number)
        if number in SIGNALS:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        interrupts.handle(next(number for number in waiting if number in SIGNALS))

    with _handling((signal.SIGALRM,), give_up), _handling(FORWARDED, wait):
        try:
            yield waiting
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _handling(numbers: tuple[int, ...], handler: _Handler) -> Iterator[None]:
    """Handle these signals so within the block, those apart that are ignored."""
    before = {number: signal.getsignal(number) for number in numbers}
    mine = [number for number, old in before.items() if old is not signal.SIG_IGN]
    try:
        for number in mine:
            signal.signal(number, handler)
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])


def _pass_on(reader: int, send: Send) -> None:
    """Send each signal whose number comes through the pipe, until the pipe is closed."""
    while number := os.read(reader, 1):
        with suppress(Exception):  # the command has ended, or its engine listens no more
            send(number[0])
