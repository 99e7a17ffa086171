"""What is measured of every trial: each metric's name, unit, and where its value comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from hybrid.driver import Usage
from hybrid.marks import Mark
from hybrid.measure import Sample


class Unit(StrEnum):
    SECONDS = "s"
    BYTES = "B"


class Group(StrEnum):
    TIME = "time"
    """From the request to a moment: the whole that a user waits for."""
    PHASE = "phase"
    """A part of such a whole. It begins where the one before it ended, which kinds with other phases
    have elsewhere: it is not compared between kinds."""
    END = "end"
    """A part of the way down."""
    COST = "cost"
    """What the host pays."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a trial; less of it is better."""

    key: str
    title: str
    meaning: str
    unit: Unit
    group: Group
    read: Callable[[Sample], float | None]
    """The value in `unit`; None when this trial has none."""


def _until(mark: Mark) -> Callable[[Sample], float | None]:
    return lambda sample: sample.seconds(mark)


def _phase(mark: Mark) -> Callable[[Sample], float | None]:
    if mark is Mark.STOP:
        return lambda sample: None if sample.killed else sample.phases.get(mark)
    return lambda sample: sample.phases.get(mark)


def _usage(read: Callable[[Usage], float]) -> Callable[[Sample], float | None]:
    return lambda sample: None if sample.usage is None else read(sample.usage)


def _group(mark: Mark) -> Group:
    return Group.END if mark in (Mark.STOP, Mark.GONE) else Group.PHASE


_PHASES = {
    Mark.CREATE: ("create", "making its directory, writable layer and configuration"),
    Mark.SPAWN: ("spawn", "until the engine's process runs"),
    Mark.KERNEL: ("kernel", "until the guest kernel has booted"),
    Mark.INIT: ("init", "until the guest's init has set up the root"),
    Mark.ENTRYPOINT: ("entrypoint", "until the command is executed"),
    Mark.READY: ("ready", "from the command's execution until the healthcheck passes"),
    Mark.STOP: ("stop", "from the stop signal until the command has ended; none when it had to be killed"),
    Mark.GONE: ("gone", "from the command's end until nothing is left on the host"),
}

METRICS: tuple[Metric, ...] = (
    Metric(
        "boot", "boot", "from the request until the command is executed",
        Unit.SECONDS, Group.TIME, _until(Mark.ENTRYPOINT),
    ),
    Metric(
        "ready", "ready", "from the request until the healthcheck passes",
        Unit.SECONDS, Group.TIME, _until(Mark.READY),
    ),
    *(
        Metric(f"phase.{mark}", title, meaning, Unit.SECONDS, _group(mark), _phase(mark))
        for mark, (title, meaning) in _PHASES.items()
    ),
    Metric(
        "cpu", "CPU until ready", "CPU time of every process that exists because of the instance, until ready",
        Unit.SECONDS, Group.COST, _usage(lambda usage: usage.cpu_seconds),
    ),
    Metric(
        "memory.pss", "memory (PSS)", "proportional set size of those processes, at ready",
        Unit.BYTES, Group.COST, _usage(lambda usage: usage.pss_bytes),
    ),
    Metric(
        "memory.private", "memory, private", "what those processes share with nobody, at ready",
        Unit.BYTES, Group.COST, _usage(lambda usage: usage.private_bytes),
    ),
    Metric(
        "disk", "disk per instance", "allocated bytes of the instance's own files, at ready",
        Unit.BYTES, Group.COST, _usage(lambda usage: usage.disk_bytes),
    ),
)  # fmt: skip

BY_KEY = {metric.key: metric for metric in METRICS}
