"""The geometry of the page's plots: phases stacked to a bar for each kind, and every value as a dot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid.driver import Kind
from hybrid.marks import Mark
from hybrid.metrics import BY_KEY
from hybrid.report import grid
from hybrid.report.figures import figure
from hybrid.report.words import label
from hybrid.result import Result

STARTUP = (Mark.CREATE, Mark.SPAWN, Mark.KERNEL, Mark.INIT, Mark.ENTRYPOINT, Mark.READY)

WIDTH = 640
"""Of the drawing's plane, in its own units."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One phase of a bar."""

    phase: str
    left: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One kind's start-up."""

    kind: str
    segments: tuple[Segment, ...]
    width: float
    total: str


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    text: str
    outlier: bool


@dataclass(frozen=True, slots=True)
class Strip:
    """All values of one kind on the axis that the kinds share."""

    kind: str
    dots: tuple[Dot, ...]
    median: float
    low: float
    high: float
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Strips:
    """One metric's strips; the axis is logarithmic."""

    title: str
    strips: tuple[Strip, ...]
    ticks: tuple[Tick, ...]


def bars(result: Result) -> tuple[Bar, ...]:
    """A bar for each kind, its phases' medians end to end, all on one linear scale from zero."""
    rows = {kind: _phases(result, kind) for kind in grid.kinds(result)}
    longest = max((sum(value for _, value in row) for row in rows.values()), default=0.0)
    return tuple(_bar(label(result, kind), row, longest) for kind, row in rows.items() if row)


def strips(result: Result, key: str) -> Strips | None:
    """Every value of a metric; None when no kind has one that a logarithmic axis can show."""
    found = {
        kind: summary
        for kind in grid.kinds(result)
        if (summary := result.kinds[kind].metrics.get(key)) is not None and summary.minimum > 0
    }
    if not found:
        return None
    axis = _Axis(min(each.minimum for each in found.values()), max(each.maximum for each in found.values()))
    unit = BY_KEY[key].unit
    drawn = []
    for kind, each in found.items():
        interval = (each.interval.low, each.interval.high) if each.interval else (each.median, each.median)
        dots = tuple(
            Dot(axis.x(value), _jitter(place), figure(value, unit), place in each.outliers)
            for place, value in enumerate(each.values)
        )
        low, high = (axis.x(value) for value in interval)
        drawn.append(Strip(label(result, kind), dots, axis.x(each.median), low, high, figure(each.median, unit)))
    ticks = tuple(Tick(axis.x(value), figure(value, unit)) for value in axis.ticks())
    return Strips(BY_KEY[key].title, tuple(drawn), ticks)


def _phases(result: Result, kind: Kind) -> list[tuple[str, float]]:
    metrics = result.kinds[kind].metrics
    return [(mark.value, metrics[f"phase.{mark}"].median) for mark in STARTUP if f"phase.{mark}" in metrics]


def _bar(kind: str, row: Sequence[tuple[str, float]], longest: float) -> Bar:
    scale = WIDTH / longest if longest > 0 else 0.0
    left, segments = 0.0, []
    for phase, value in row:
        segments.append(Segment(phase, left, value * scale, f"{phase} {figure(value, 's')}"))
        left += value * scale
    return Bar(kind, tuple(segments), left, figure(sum(value for _, value in row), "s"))


def _jitter(place: int) -> float:
    """A fixed sideways shift, so that equal values do not hide each other."""
    return (-6.0, 3.0, -3.0, 6.0, 0.0)[place % 5]


class _Axis:
    """A logarithmic axis that leaves some room at its ends."""

    def __init__(self, least: float, most: float) -> None:
        self.low = math.log10(least) - 0.06
        self.high = max(math.log10(most) + 0.06, self.low + 0.3)

    def x(self, value: float) -> float:
        return (math.log10(value) - self.low) / (self.high - self.low) * WIDTH

    def ticks(self) -> list[float]:
        """Round values on the axis: powers of ten, and their doubles and fives where those are few."""
        span = self.high - self.low
        steps: tuple[float, ...] = (1.0,) if span > 3 else (1.0, 2.0, 5.0) if span > 0.7 else (1, 1.5, 2, 3, 4, 5, 6, 8)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        values = [step * 10.0**decade for decade in decades for step in steps]
        return [value for value in values if self.low <= math.log10(value) <= self.high]
