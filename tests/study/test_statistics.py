from __future__ import annotations

from math import exp, isnan
from random import Random

import pytest

from rproxy.study.statistics import geometric, interval, ratio


def test_the_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.low == pytest.approx(2 - 4.303 / 3**0.5)
    assert found.high == pytest.approx(2 + 4.303 / 3**0.5)


def test_one_value_has_no_interval() -> None:
    found = interval([5.0])
    assert found.mean == 5.0
    assert isnan(found.low)
    assert isnan(interval([]).mean)


@pytest.mark.parametrize("count", [2, 5, 31, 60])
def test_nineteen_in_twenty_contain_the_mean(count: int) -> None:
    rng = Random(count)
    found = [interval([rng.gauss(3, 2) for _ in range(count)]) for _ in range(2000)]
    hits = sum(each.low <= 3 <= each.high for each in found)
    assert 0.935 <= hits / 2000 <= 0.965


def test_ratios_are_of_pairs() -> None:
    found = ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert [found.mean, found.low, found.high] == pytest.approx([2.0, 2.0, 2.0])


def test_a_geometric_interval_is_that_of_the_logarithms() -> None:
    logs = interval([0.0, 1.0, 3.0])
    found = geometric([1.0, exp(1.0), exp(3.0)])
    assert [found.mean, found.low, found.high] == pytest.approx(
        [exp(each) for each in (logs.mean, logs.low, logs.high)]
    )


@pytest.mark.parametrize(("values", "bases"), [([0.0], [1.0]), ([1.0], [0.0]), ([float("nan")], [1.0])])
def test_there_is_no_ratio_to_or_of_nothing(values: list[float], bases: list[float]) -> None:
    assert isnan(ratio(values, bases).mean)
