"""Programs that we start, and the signals that come at the worst moment."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from hybrid import process
from hybrid.interrupt import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_program_starts_ends_the_program(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """It comes when the program runs and nothing has its name yet."""
    started: list[int] = []
    launch = process.launch

    def signalled(*words: Any, **settings: Any) -> process.Child:
        child = launch(*words, **settings)
        started.append(os.pidfd_open(child.pid))
        os.kill(os.getpid(), number)
        return child

    monkeypatch.setattr(process, "launch", signalled)
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), process.spawn(["sleep", "100"]):
            pytest.fail("the block was entered")
        assert interrupts.number == number
    assert process.ended(started[0], 10)
    os.close(started[0])
