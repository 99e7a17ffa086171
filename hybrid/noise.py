"""What weakens the figures of a comparison: noise of the machine, drift, outliers, failures, too few runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hybrid import stats
from hybrid.driver import Kind, Problem
from hybrid.machine import Load
from hybrid.result import Caution, KindResult

BUSY = 0.5
"""Load average per core before the first trial from which others' work disturbs ours."""

STOLEN = 0.01
"""Share of the machine's CPU time withheld by the hypervisor below."""

DRIFT = 0.10
"""Shift of the second half's median from which a drift is named, if its interval also leaves out 1."""

HEADLINES = ("boot", "ready")


def cautions(
    kinds: Mapping[Kind, KindResult],
    driver_warnings: Mapping[Kind, Sequence[Problem]],
    given_up: Sequence[Kind],
    before: Load,
    after: Load,
    cores: int,
    seed: int,
) -> tuple[Caution, ...]:
    """All that a reader should know before trusting the figures, the gravest first."""
    found = [Caution("gave-up", kind) for kind in given_up]
    for kind, each in kinds.items():
        found += _of_kind(kind, each)
        for problem in driver_warnings.get(kind, ()):
            found.append(Caution("driver", kind, values={"what": problem.what, "mend": problem.mend}))
    found += _of_machine(before, after, cores)
    for kind, each in kinds.items():
        found += _of_samples(kind, each, seed)
    return tuple(found)


def _of_kind(kind: Kind, result: KindResult) -> Iterator[Caution]:
    if result.accelerator == "tcg":
        yield Caution("tcg", kind)
    if result.failures:
        first = result.failures[0]
        yield Caution(
            "failed",
            kind,
            values={"count": len(result.failures), "what": first.what, "phase": first.phase, "mend": first.mend},
        )
    if result.ended:
        yield Caution("ended", kind, values={"count": result.ended, "of": result.measured})
    if result.killed:
        yield Caution("killed", kind, values={"count": result.killed, "of": result.measured})
    for code, count in result.exit_codes.items():
        if code != "0":
            yield Caution("exit-code", kind, values={"code": code, "count": count})
    if 0 < result.measured < stats.ENOUGH:
        yield Caution("few-runs", kind, values={"count": result.measured, "enough": stats.ENOUGH})


def _of_machine(before: Load, after: Load, cores: int) -> Iterator[Caution]:
    if before.average > BUSY * cores:
        yield Caution("busy", values={"average": before.average, "cores": cores})
    elapsed = after.at - before.at
    stolen = (after.stolen - before.stolen) / (cores * elapsed) if elapsed > 1 else 0.0
    if stolen > STOLEN:
        yield Caution("stolen", values={"share": stolen})


def _of_samples(kind: Kind, result: KindResult, seed: int) -> Iterator[Caution]:
    for key in HEADLINES:
        summary = result.metrics.get(key)
        if summary is None or (key == "ready" and _same(summary, result.metrics.get("boot"))):
            continue
        if summary.outliers:
            count = len(summary.outliers)
            yield Caution("outliers", kind, key, {"count": count, "of": len(summary.values)})
        drift = stats.shift(summary.values, seed=seed)
        if drift is not None and drift.decides and abs(drift.value - 1) > DRIFT:
            yield Caution("drift", kind, key, {"shift": drift.value})


def _same(one: stats.Summary, other: stats.Summary | None) -> bool:
    return other is not None and one.values == other.values
