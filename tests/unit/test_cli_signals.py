"""Signals that go on to the command."""

from __future__ import annotations

import os
import queue
import signal

import pytest

from hybrid.cli.signals import forwarded


def test_signals_reach_the_command_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: queue.Queue[int] = queue.Queue()
    with forwarded(seen.put):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)
            assert seen.get(timeout=10) == number
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_cannot_be_sent_ends_nothing() -> None:
    seen: queue.Queue[int] = queue.Queue()

    def send(number: int) -> None:
        seen.put(number)
        raise ProcessLookupError

    with forwarded(send):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGUSR2)
            assert seen.get(timeout=10) == signal.SIGUSR2


def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with forwarded(lambda number: None):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
