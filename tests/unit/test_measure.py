"""A trial goes through every phase, tells what failed where, and always destroys its instance."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.driver import Kind, Request
from hybrid.errors import HybridError, NotReadyError
from hybrid.image import Healthcheck, Image, merge
from hybrid.marks import Marks
from hybrid.measure import Sample, Turn, trial
from hybrid.spec import Spec

Scripted = Callable[..., tuple[Any, Any]]

STEPS = ("create", "start", "entrypoint", "ready", "usage", "evidence", "stop", "destroy")
PHASES = {"start": "spawn", "destroy": "gone"}


@pytest.fixture
def take(image: Image, tmp_path: Path) -> Callable[..., Sample]:
    def take(driver: Any, healthcheck: bool = True) -> Sample:
        spec = Spec(image="test")
        process = merge(spec, image, (), "trial")
        if healthcheck:
            process = replace(process, healthcheck=Healthcheck(("/bin/true",)))
        request = Request("trial", spec, image, process, Marks())
        return trial(driver, request, Turn(1, 1, driver.kind), logs=tmp_path / "logs", timeout=1)

    return take


def test_a_vm_goes_through_all_phases(scripted: Scripted, take: Callable[..., Sample]) -> None:
    driver, script = scripted(Kind.VM)
    sample = take(driver)
    assert sample.failure is None
    assert dict(sample.phases) == {
        "create": 0.3, "spawn": 0.2, "kernel": 0.9, "init": 0.4, "entrypoint": 0.05, "ready": 0.04, "stop": 0.08,
        "gone": 0.12,
    }  # fmt: skip
    assert sample.marks["request"] == 0
    assert sample.marks["ready"] == 1_890_000_000
    assert sample.usage is not None and sample.evidence is not None
    assert (sample.exit_code, sample.ended, script.alive) == (0, False, set())


def test_output_is_kept_only_when_there_is_some(
    scripted: Scripted, take: Callable[..., Sample], tmp_path: Path
) -> None:
    take(scripted(Kind.CONTAINER)[0])
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"0001-container.stdout"}


@pytest.mark.parametrize("step", STEPS)
def test_a_failing_step_is_named_and_nothing_stays(
    scripted: Scripted, take: Callable[..., Sample], broken: HybridError, step: str
) -> None:
    driver, script = scripted(Kind.CONTAINER, fail={step: broken})
    sample = take(driver)
    assert sample.failure is not None
    assert (sample.failure.what, sample.failure.mend) == ("it broke", "mend it")
    assert sample.failure.phase == PHASES.get(step, step)
    assert step == "destroy" or script.alive == set()


def test_a_full_disk_is_a_failure_too(scripted: Scripted, take: Callable[..., Sample]) -> None:
    sample = take(scripted(Kind.VM, fail={"create": OSError(28, "No space left on device")})[0])
    assert sample.failure is not None and "No space left" in sample.failure.what


def test_a_late_phase_is_named_by_the_driver(scripted: Scripted, take: Callable[..., Sample]) -> None:
    late = NotReadyError("the kernel did not boot", phase="kernel", tail="Kernel panic")
    sample = take(scripted(Kind.VM, fail={"entrypoint": late})[0])
    assert sample.failure is not None
    assert (sample.failure.phase, sample.failure.tail) == ("kernel", "Kernel panic")


def test_a_bug_is_no_sample_but_leaves_nothing(scripted: Scripted, take: Callable[..., Sample]) -> None:
    driver, script = scripted(Kind.VM, fail={"usage": ZeroDivisionError()})
    with pytest.raises(ZeroDivisionError):
        take(driver)
    assert script.alive == set()


def test_a_command_that_ends_by_itself_is_a_trial(scripted: Scripted, take: Callable[..., Sample]) -> None:
    sample = take(scripted(Kind.CONTAINER, ends=7)[0], healthcheck=False)
    assert sample.failure is None
    assert (sample.ended, sample.exit_code, sample.usage, sample.evidence) == (True, 7, None, None)
    assert sample.marks["ready"] == sample.marks["entrypoint"]
    assert "stop" not in sample.phases and "gone" in sample.phases


@pytest.mark.parametrize(("code", "failed"), [(0, False), (1, True)])
def test_a_command_that_ends_before_it_is_healthy(
    scripted: Scripted, take: Callable[..., Sample], code: int, failed: bool
) -> None:
    ended = NotReadyError("the command ended", phase="ready")
    sample = take(scripted(Kind.CONTAINER, ends=code, fail={"ready": ended})[0])
    assert (sample.failure is not None) is failed
    assert sample.exit_code == code
    assert "ready" not in sample.marks


def test_another_image_is_refused(scripted: Scripted, take: Callable[..., Sample]) -> None:
    driver, script = scripted(Kind.VM, digest="sha256:" + "cd" * 32)
    sample = take(driver)
    assert sample.failure is not None and "not of sha256:abab" in sample.failure.what
    assert script.alive == set()


def test_a_failure_carries_the_words_of_engine_and_command(scripted: Scripted, take: Callable[..., Sample]) -> None:
    late = NotReadyError("it is not ready", phase="ready", tail="the engine's words\n")

    def complain(step: str) -> None:
        if step == "ready":
            os.write(script.stderr, b"oops\n")

    driver, script = scripted(Kind.VM, fail={"ready": late}, at=complain)
    sample = take(driver)
    assert sample.failure is not None and sample.failure.tail == "the engine's words\noops"
