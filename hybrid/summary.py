"""From samples to figures: one kind's metrics, and the ratios between kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from hybrid import stats
from hybrid.driver import Kind
from hybrid.measure import Sample
from hybrid.metrics import METRICS, Group
from hybrid.result import Comparison, KindResult


def summarise(
    samples: Sequence[Sample],
    facts: Mapping[str, str],
    prepare_seconds: float,
    prepare_bytes: int,
    failed: Sequence[Sample],
    seed: int,
) -> KindResult:
    """One kind's figures from its measured samples; failed ones are counted, not averaged."""
    good = [sample for sample in samples if sample.failure is None]
    metrics = {}
    for metric in METRICS:
        values = [value for sample in good if (value := metric.read(sample)) is not None]
        if values:
            metrics[metric.key] = stats.summarise(values, seed=seed)
    codes: dict[str, int] = {}
    for sample in good:
        if sample.ended and sample.exit_code is not None:
            codes[str(sample.exit_code)] = codes.get(str(sample.exit_code), 0) + 1
    return KindResult(
        facts=facts,
        accelerator=facts.get("accelerator", "").lower(),
        prepare_seconds=prepare_seconds,
        prepare_bytes=prepare_bytes,
        measured=len(good),
        failures=tuple(sample.failure for sample in failed if sample.failure is not None),
        ended=sum(sample.ended for sample in good),
        exit_codes=codes,
        killed=sum(sample.killed for sample in good),
        metrics=metrics,
        evidence=next((sample.evidence for sample in good if sample.evidence is not None), None),
    )


def comparisons(kinds: Mapping[Kind, KindResult], seed: int) -> Iterator[Comparison]:
    """Each kind against its neighbour of less isolation, and the last against the barest, by all but phases."""
    present = [kind for kind in Kind if kind in kinds]
    pairs = list(pairwise(present)) + ([(present[0], present[-1])] if len(present) > 2 else [])
    for metric in METRICS:
        if metric.group is Group.PHASE:
            continue
        for baseline, kind in pairs:
            if metric.key in kinds[kind].metrics and metric.key in kinds[baseline].metrics:
                found = stats.ratio(
                    kinds[kind].metrics[metric.key].values, kinds[baseline].metrics[metric.key].values, seed=seed
                )
                if found is not None:
                    yield Comparison(metric.key, kind, baseline, found, found.decides)
