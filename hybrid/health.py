"""Readiness: a healthcheck, probed from the host until it passes for the first time.

Docker's semantics of one probe (exit code 0 within its timeout means healthy) and of giving up (after
the start period, `retries` intervals without a pass). Between probes lies `start_interval`, since what
is measured is the moment of readiness, not the health of a long-running service.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hybrid.errors import NotReadyError
from hybrid.image import Healthcheck

_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one probe yielded."""

    exit_code: int | None
    """None when it did not end in time."""
    output: str = ""
    """What it wrote, both streams."""


Probe: TypeAlias = Callable[[Sequence[str], float], Outcome]
"""Executes a command inside the instance for at most so many seconds, and ends it then."""

Ended: TypeAlias = Callable[[float], bool]
"""Waits at most so many seconds for the instance's command to end, and says whether it has."""


def patience(check: Healthcheck) -> float:
    """Seconds after which a healthcheck that never passed has failed."""
    return check.start_period + check.retries * check.interval


def wait_healthy(check: Healthcheck, probe: Probe, ended: Ended, timeout: float) -> None:
    """Return when the healthcheck passes; NotReadyError when it gives up, time is over, or the command ends."""
    start = time.monotonic()
    allowed = min(timeout, patience(check))
    while True:
        left = start + allowed - time.monotonic()
        outcome = probe(check.test, min(check.timeout, max(left, 0.001)))
        if outcome.exit_code == 0:
            return
        left = start + allowed - time.monotonic()
        if ended(max(0.0, min(check.start_interval, left))):
            raise _failed("the command ended before its healthcheck passed", outcome, "hybrid run shows what it says")
        if left <= check.start_interval:
            raise _failed(
                f"the healthcheck did not pass within {allowed:g} s (its last probe {_word(outcome)})",
                outcome,
                "look at the healthcheck's test, start_period and retries",
            )


def _word(outcome: Outcome) -> str:
    return "did not end in time" if outcome.exit_code is None else f"exited with {outcome.exit_code}"


def _failed(what: str, outcome: Outcome, mend: str) -> NotReadyError:
    return NotReadyError(what, phase="ready", tail=outcome.output[-_TAIL:].strip(), mend=mend)
