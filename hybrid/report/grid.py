"""The main table's shape, the same for the terminal, Markdown and HTML: which rows and columns, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from hybrid.driver import Kind
from hybrid.metrics import METRICS, Group, Metric
from hybrid.report.figures import figure, figure_range, times, times_range
from hybrid.report.words import label
from hybrid.result import Result


@dataclass(frozen=True, slots=True)
class Value:
    """One cell: the figure, and its 95 % interval (empty without one)."""

    text: str
    interval: str = ""
    weak: bool = False
    """A ratio whose interval holds 1, or has none: it shows no difference."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the main table."""

    metric: Metric
    values: tuple[Value | None, ...]
    ratios: tuple[Value | None, ...]


def kinds(result: Result) -> tuple[Kind, ...]:
    """The kinds with figures, the least isolated first."""
    return tuple(kind for kind in Kind if kind in result.kinds)


def pairs(result: Result) -> tuple[tuple[Kind, Kind], ...]:
    """Each kind with its baseline, its neighbour of less isolation, as (kind, baseline)."""
    return tuple((later, earlier) for earlier, later in pairwise(kinds(result)))


def pair_names(result: Result) -> tuple[tuple[str, str], ...]:
    return tuple((label(result, kind), label(result, baseline)) for kind, baseline in pairs(result))


def lines(result: Result) -> Iterator[Line]:
    """Every row that has a figure. Without a healthcheck `ready` repeats `boot` and is left out."""
    for metric in METRICS:
        if metric.key in ("ready", "phase.ready") and not result.subject.healthcheck:
            continue
        values = tuple(_value(result, kind, metric) for kind in kinds(result))
        if any(values):
            yield Line(metric, values, tuple(_ratio(result, metric, *pair) for pair in pairs(result)))


def prepared(result: Result) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Rows of what is paid once and shared by all instances; outside of every other figure."""
    yield "image on disk", tuple(figure(result.subject.tree_bytes, "B") for _ in kinds(result))
    yield (
        "disk made from it",
        tuple(figure(size, "B") if (size := result.kinds[kind].prepare_bytes) else "–" for kind in kinds(result)),  # noqa: RUF001
    )
    yield "making it took", tuple(_preparing(result.kinds[kind].prepare_seconds) for kind in kinds(result))


def _preparing(seconds: float) -> str:
    return figure(seconds, "s") if seconds >= 1e-3 else "–"  # noqa: RUF001


def spread(result: Result) -> Iterator[tuple[str, str, int, tuple[str, ...], int]]:
    """Of every metric and kind: title, kind, count, least, median, 95th percentile, most; and outliers."""
    for line in lines(result):
        title = f"phase {line.metric.title}" if line.metric.group is Group.PHASE else line.metric.title
        for kind in kinds(result):
            found = result.kinds[kind].metrics.get(line.metric.key)
            if found is not None:
                steps = (found.minimum, found.median, found.p95, found.maximum)
                texts = tuple(figure(value, line.metric.unit) for value in steps)
                yield title, label(result, kind), len(found.values), texts, len(found.outliers)


def indent(metric: Metric) -> str:
    return "  " if metric.group is Group.PHASE else ""


def _value(result: Result, kind: Kind, metric: Metric) -> Value | None:
    summary = result.kinds[kind].metrics.get(metric.key)
    if summary is None:
        return None
    interval = figure_range(summary.interval, summary.median, metric.unit) if summary.interval else ""
    return Value(figure(summary.median, metric.unit), interval)


def _ratio(result: Result, metric: Metric, kind: Kind, baseline: Kind) -> Value | None:
    found = result.ratio(metric.key, kind, baseline)
    if found is None:
        return None
    interval = times_range(found.ratio.interval) if found.ratio.interval else ""
    return Value(times(found.ratio.value), interval, weak=not found.decides)
