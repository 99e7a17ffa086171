"""The geometry of the page's plots: phases stacked to a bar for each kind, and every value as a dot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid.driver import Kind
from hybrid.marks import Mark
from hybrid.metrics import BY_KEY, Unit
from hybrid.report import grid
from hybrid.report.figures import figure, round_figure
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
    return tuple(_bar(label(result, kind), row, longest, _whole(result, kind)) for kind, row in rows.items() if row)


def strips(result: Result, key: str) -> Strips | None:
    """Every value of a metric; None when no kind has one that a logarithmic axis can show."""
    found = {
        kind: summary
        for kind in grid.kinds(result)
        if (summary := result.kinds[kind].metrics.get(key)) is not None and summary.minimum > 0
    }
    if not found:
        return None
    unit = BY_KEY[key].unit
    base = 1024.0 if unit is Unit.BYTES else 10.0
    axis = _Axis(min(each.minimum for each in found.values()), max(each.maximum for each in found.values()), base)
    drawn = []
    for kind, each in found.items():
        interval = (each.interval.low, each.interval.high) if each.interval else (each.median, each.median)
        dots = tuple(
            Dot(axis.x(value), _jitter(place), figure(value, unit), place in each.outliers)
            for place, value in enumerate(each.values)
        )
        low, high = (axis.x(value) for value in interval)
        drawn.append(Strip(label(result, kind), dots, axis.x(each.median), low, high, figure(each.median, unit)))
    ticks = tuple(Tick(axis.x(value), round_figure(value, unit)) for value in axis.ticks())
    return Strips(BY_KEY[key].title, tuple(drawn), ticks)


def _phases(result: Result, kind: Kind) -> list[tuple[str, float]]:
    metrics = result.kinds[kind].metrics
    return [(mark.value, metrics[f"phase.{mark}"].median) for mark in STARTUP if f"phase.{mark}" in metrics]


def _whole(result: Result, kind: Kind) -> str:
    """The median of the whole, which is not quite the sum of its parts' medians."""
    metrics = result.kinds[kind].metrics
    whole = metrics.get("ready") or metrics.get("boot")
    return figure(whole.median, "s") if whole is not None else ""


def _bar(kind: str, row: Sequence[tuple[str, float]], longest: float, total: str) -> Bar:
    scale = WIDTH / longest if longest > 0 else 0.0
    left, segments = 0.0, []
    for phase, value in row:
        segments.append(Segment(phase, left, value * scale, f"{phase} {figure(value, 's')}"))
        left += value * scale
    return Bar(kind, tuple(segments), left, total)


def _jitter(place: int) -> float:
    """A fixed sideways shift, so that equal values do not hide each other."""
    return (-6.0, 3.0, -3.0, 6.0, 0.0)[place % 5]


class _Axis:
    """A logarithmic axis that leaves some room at its ends."""

    def __init__(self, least: float, most: float, base: float) -> None:
        self.low = math.log10(least) - 0.06
        self.high = max(math.log10(most) + 0.06, self.low + 0.3)
        self.base = base

    def x(self, value: float) -> float:
        return (math.log10(value) - self.low) / (self.high - self.low) * WIDTH

    def ticks(self) -> list[float]:
        """Round values on the axis; of the sets of steps from coarse to fine the first that gives enough."""
        for steps in _STEPS[self.base]:
            found = [value for value in self._round(steps) if self.low <= math.log10(value) <= self.high]
            if len(found) >= ENOUGH_TICKS:
                break
        return found

    def _round(self, steps: Sequence[float]) -> list[float]:
        power = math.log10(self.base)
        first, last = math.floor(self.low / power), math.ceil(self.high / power)
        return [step * self.base**exponent for exponent in range(first, last + 1) for step in steps]


ENOUGH_TICKS = 3

_DECADE = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1, 1.5, 2, 3, 4, 5, 6, 8))
_BINARY = ((1.0, 32.0), (1.0, 8.0, 64.0, 512.0), (1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
_STEPS: Mapping[float, Sequence[Sequence[float]]] = {10.0: _DECADE, 1024.0: _BINARY}
