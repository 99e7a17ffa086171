"""A healthcheck's life, alike for every kind: its states over time, its probes, and what becomes of one that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hybrid.driver import Health, Instance
from hybrid.errors import NotReadyError

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

TIMEOUT = 120.0
FAST = {"interval": "100ms", "timeout": "20s", "retries": 2, "start_interval": "50ms"}

SWITCH = """
count() { echo probe >>/seen/probes; }
count
case $(cat /state) in well) echo fine;; *) echo "sick: $(cat /state)"; exit 3;; esac
"""
CONTROLLED = """
echo ill >/state; chmod 777 /state
trap 'echo well >/state' USR1; trap 'echo broken >/state' USR2; trap 'exit 0' TERM
while :; do sleep 0.05; done
"""


@pytest.fixture
def real(bench: Bench) -> Bench:
    if bench.kind == "fake":
        pytest.skip("what is scripted has no probes")
    return bench


def until(instance: Instance, wanted: Callable[[Health | None], bool]) -> Health | None:
    """The health once it is as wanted; a bound against hanging, never a measure."""
    deadline = time.monotonic() + TIMEOUT
    while not wanted(health := instance.status().health) and time.monotonic() < deadline:
        time.sleep(0.05)
    return health


def test_states(real: Bench, tmp_path: Path) -> None:
    """Starting, unhealthy when it has failed long enough, healthy, unhealthy, healthy: seen from another process."""
    check = {"test": ["CMD", "sh", "-c", SWITCH], **FAST, "interval": "500ms", "start_period": "1s"}
    instance = real.make("sh", "-c", CONTROLLED, healthcheck=check, volumes=[f"{tmp_path}:/seen"])
    assert instance.status().health is None
    instance.start(None)
    instance.wait_entrypoint(TIMEOUT)
    other = real.again(instance)
    assert other.status().health is Health.STARTING
    with pytest.raises(NotReadyError) as failure:
        instance.wait_ready(TIMEOUT)
    assert "sick: ill" in failure.value.tail
    assert other.status().health is Health.UNHEALTHY
    for number, wanted in ((10, Health.HEALTHY), (12, Health.UNHEALTHY), (10, Health.HEALTHY)):
        other.signal(number)
        assert until(other, lambda health, wanted=wanted: health is wanted) is wanted  # type: ignore[misc]
    real.again(instance).wait_ready(TIMEOUT)
    assert other.stop(TIMEOUT) == 0
    assert real.again(instance).status().health is None
    assert (tmp_path / "probes").read_text().count("\n") >= 8


def test_a_probe_that_hangs_is_killed_with_its_children(real: Bench, tmp_path: Path) -> None:
    hangs = "echo probe >>/seen/probes; sleep 1000 & sleep 1000"
    check = {"test": ["CMD", "sh", "-c", hangs], **FAST, "timeout": "500ms", "retries": 3}
    command = "trap 'ps | grep -c \"[s]leep 1000\" >/seen/left; exit 0' TERM; while :; do sleep 0.1; done"
    instance = real.make("sh", "-c", command, healthcheck=check, volumes=[f"{tmp_path}:/seen"])
    instance.start(None)
    with pytest.raises(NotReadyError):
        instance.wait_ready(TIMEOUT)
    assert instance.status().health is Health.UNHEALTHY
    assert instance.status().state.value == "running"
    assert instance.stop(TIMEOUT) == 0
    assert (tmp_path / "probes").read_text().count("\n") >= 3
    # The shell and the two programs of the probe that runs now.
    assert int((tmp_path / "left").read_text()) <= 3
