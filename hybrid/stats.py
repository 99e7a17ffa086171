"""Statistics of trials: medians with bootstrap intervals, ratios of medians, outliers, shifts.

The bootstrap is scipy's and is imported when the first interval is asked for. Every random choice
takes a seed, so that the same samples always give the same figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 9999

LEAST = 3
"""Fewer values than this have no interval."""

ENOUGH = 6
"""Fewer values than this cannot carry a 95 % interval of a median: 1 - 2 * 0.5**5 is below 0.95."""

OUTLIER = 3.5
"""Modified z-score from which a value is flagged (Iglewicz and Hoaglin, 1993)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the figure lies with 95 % confidence."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric of one kind over all its trials, in the metric's unit."""

    median: float
    interval: Interval | None
    """Of the median; None with fewer than three values."""
    p95: float
    minimum: float
    maximum: float
    outliers: tuple[int, ...]
    """Positions in `values` of those far from the rest. They are flagged, never left out."""
    values: tuple[float, ...]
    """In the order in which they were measured."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of one kind divided by that of another."""

    value: float
    interval: Interval | None

    @property
    def decides(self) -> bool:
        """Whether the interval leaves no room for "no difference"."""
        return self.interval is not None and not self.interval.holds(1.0)


def summarise(values: Sequence[float], *, seed: int = 0) -> Summary:
    """The summary of at least one value."""
    return Summary(
        median=statistics.median(values),
        interval=median_interval(values, seed=seed),
        p95=quantile(values, 0.95),
        minimum=min(values),
        maximum=max(values),
        outliers=outliers(values),
        values=tuple(values),
    )


def median_interval(values: Sequence[float], *, seed: int = 0) -> Interval | None:
    """The percentile bootstrap interval of the median; None with fewer than three values."""
    if len(values) < LEAST:
        return None
    if min(values) == max(values):
        return Interval(values[0], values[0])
    import numpy
    from scipy.stats import bootstrap

    found = bootstrap(
        (numpy.asarray(values, dtype=float),),
        numpy.median,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=numpy.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def ratio(values: Sequence[float], baseline: Sequence[float], *, seed: int = 0) -> Ratio | None:
    """The ratio of the medians with its bootstrap interval.

    None when either is empty or the baseline is not positive: such a ratio means nothing.
    """
    if not values or not baseline or min(baseline) <= 0:
        return None
    value = statistics.median(values) / statistics.median(baseline)
    if min(len(values), len(baseline)) < LEAST:
        return Ratio(value, None)
    if min(values) == max(values) and min(baseline) == max(baseline):
        return Ratio(value, Interval(value, value))
    import numpy
    from scipy.stats import bootstrap

    found = bootstrap(
        (numpy.asarray(values, dtype=float), numpy.asarray(baseline, dtype=float)),
        lambda a, b, axis: numpy.median(a, axis=axis) / numpy.median(b, axis=axis),
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        random_state=numpy.random.default_rng(seed),
    ).confidence_interval
    return Ratio(value, Interval(float(found.low), float(found.high)))


def shift(values: Sequence[float], *, seed: int = 0) -> Ratio | None:
    """The second half's median divided by the first half's; None with fewer than six values."""
    if len(values) < ENOUGH:
        return None
    half = len(values) // 2
    return ratio(values[-half:], values[:half], seed=seed)


def outliers(values: Sequence[float]) -> tuple[int, ...]:
    """Positions of values whose modified z-score, by the median absolute deviation, is extreme.

    None among fewer than six: those do not say what is usual.
    """
    if len(values) < ENOUGH:
        return ()
    middle = statistics.median(values)
    deviation = statistics.median(abs(value - middle) for value in values)
    if deviation == 0:
        return ()
    return tuple(
        position for position, value in enumerate(values) if 0.6745 * abs(value - middle) / deviation > OUTLIER
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all lie, linear between neighbours (type 7 of Hyndman and Fan)."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
