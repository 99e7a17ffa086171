"""Medians, intervals and ratios, against values that are known."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from hybrid import stats


def test_summary_of_few_values_has_no_interval() -> None:
    summary = stats.summarise([3.0, 1.0])
    assert (summary.median, summary.minimum, summary.maximum, summary.interval) == (2.0, 1.0, 3.0, None)


def test_constant_values_have_an_interval_without_width() -> None:
    assert stats.summarise([2.0] * 5).interval == stats.Interval(2.0, 2.0)


def test_the_same_samples_give_the_same_figures() -> None:
    values = [random.Random(1).gauss(10, 1) for _ in range(12)]
    assert stats.summarise(values, seed=5) == stats.summarise(values, seed=5)


def test_the_interval_holds_the_median_and_lies_within_the_values() -> None:
    values = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 9.0]
    interval = stats.median_interval(values)
    assert interval is not None
    assert 1.0 <= interval.low <= 1.3 <= interval.high <= 9.0


def test_outliers_are_flagged_and_kept() -> None:
    summary = stats.summarise([1.0, 1.1, 0.9, 1.05, 0.95, 30.0])
    assert summary.outliers == (5,)
    assert summary.maximum == 30.0 and len(summary.values) == 6


def test_most_values_equal_flags_nothing() -> None:
    assert stats.outliers([1.0, 1.0, 1.0, 1.0, 2.0]) == ()


def test_quantiles_are_linear() -> None:
    assert stats.quantile([float(n) for n in range(1, 22)], 0.95) == pytest.approx(20.0)
    assert stats.quantile([7.0], 0.95) == 7.0


def test_a_clear_ratio_decides() -> None:
    found = stats.ratio([20.0, 21, 22, 20, 21, 22], [2.0, 2.1, 2.2, 2.0, 2.1, 2.2])
    assert found is not None and found.decides
    assert found.value == pytest.approx(10.0)


def test_overlapping_samples_do_not_decide() -> None:
    found = stats.ratio([1.0, 2, 3, 4, 5, 6], [1.5, 2, 3, 4, 5, 5.5])
    assert found is not None and not found.decides


def test_one_run_never_decides() -> None:
    found = stats.ratio([10.0], [1.0])
    assert found is not None and found.interval is None and not found.decides


@pytest.mark.parametrize(("values", "baseline"), [([], [1.0]), ([1.0], []), ([1.0], [0.0])])
def test_a_ratio_to_nothing_is_none(values: list[float], baseline: list[float]) -> None:
    assert stats.ratio(values, baseline) is None


def test_a_against_a_rarely_decides() -> None:
    draw = random.Random(7)
    found = [stats.ratio(*([draw.gauss(50, 2) for _ in range(10)] for _ in range(2)), seed=n) for n in range(40)]
    assert sum(each is not None and each.decides for each in found) <= 5


def test_an_inserted_tenth_is_found() -> None:
    draw = random.Random(7)
    pairs = [([draw.gauss(55, 1) for _ in range(10)], [draw.gauss(50, 1) for _ in range(10)]) for _ in range(20)]
    assert all((found := stats.ratio(*pair)) is not None and found.decides for pair in pairs)


def test_a_shift_is_between_halves() -> None:
    found = stats.shift([10.0, 10.1, 9.9, 10.0, 12.0, 12.1, 11.9, 12.0])
    assert found is not None and found.decides and found.value == pytest.approx(1.2)
    assert stats.shift([1.0, 2.0, 3.0]) is None


def test_more_values_narrow_the_interval() -> None:
    draw = random.Random(3)
    values = [draw.gauss(100, 5) for _ in range(200)]
    widths = []
    for count in (8, 40, 200):
        interval = stats.median_interval(values[:count])
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert all(wide > narrow for wide, narrow in pairwise(widths))
