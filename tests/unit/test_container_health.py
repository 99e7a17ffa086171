"""Readiness: what a healthcheck's outcomes lead to, without a clock or a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from hybrid import health
from hybrid.errors import NotReadyError
from hybrid.health import Outcome
from hybrid.image import Healthcheck


@dataclass
class Scene:
    """A command that ends at `ends` s, and probes with these outcomes, each taking `takes` s."""

    outcomes: Sequence[Outcome]
    ends: float = 1e9
    takes: float = 0.01
    now: float = 0.0
    timeouts: list[float] = field(default_factory=list)

    def probe(self, argv: Sequence[str], timeout: float) -> Outcome:
        outcome = self.outcomes[min(len(self.timeouts), len(self.outcomes) - 1)]
        self.timeouts.append(timeout)
        self.now += self.takes
        return outcome

    def ended(self, seconds: float) -> bool:
        self.now += seconds
        return self.now >= self.ends


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Scene]:
    scenes: list[Scene] = []
    monkeypatch.setattr("hybrid.health.time.monotonic", lambda: scenes[0].now)
    return scenes


SICK, WELL = Outcome(1, "sick"), Outcome(0)
CHECK = Healthcheck(("true",), interval=1.0, timeout=0.5, retries=3, start_period=2.0, start_interval=0.1)


def run(clock: list[Scene], scene: Scene, timeout: float = 1e6) -> Scene:
    clock.append(scene)
    health.wait_healthy(CHECK, scene.probe, scene.ended, timeout)
    return scene


def test_the_first_pass_is_enough(clock: list[Scene]) -> None:
    scene = run(clock, Scene([SICK, SICK, WELL]))
    assert scene.now == pytest.approx(0.23)
    assert scene.timeouts[0] == 0.5


def test_it_gives_up_after_start_period_and_retries(clock: list[Scene]) -> None:
    scene = Scene([SICK])
    with pytest.raises(NotReadyError, match=r"within 5 s .*exited with 1") as failure:
        run(clock, scene)
    assert failure.value.tail == "sick"
    assert 4.5 < scene.now <= 5.1


def test_the_callers_bound_holds(clock: list[Scene]) -> None:
    scene = Scene([Outcome(None)], takes=0.5)
    with pytest.raises(NotReadyError, match=r"within 0.7 s .*did not end in time"):
        run(clock, scene, timeout=0.7)
    assert max(scene.timeouts) <= 0.5


def test_a_command_that_ends(clock: list[Scene]) -> None:
    with pytest.raises(NotReadyError, match="ended before"):
        run(clock, Scene([SICK], ends=0.3))
