"""Means over seeds, with Student's intervals of 95 %."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, nan, sqrt
from typing import Final

import attrs

_T_95: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t, for 1 to 30 degrees of freedom."""
_T_95_MORE: Final = 2.0
"""For more of them, at most 0.04 too much."""


@attrs.frozen
class Interval:
    """A mean and the bounds of its interval, which are NaN for fewer than two values."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Of the arithmetic mean of independent values; all NaN where there are none."""
    count = len(values)
    if not count:
        return Interval(nan, nan, nan)
    mean = sum(values) / count
    if count == 1:
        return Interval(mean, nan, nan)
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    t = _T_95[count - 2] if count - 2 < len(_T_95) else _T_95_MORE
    half = t * deviation / sqrt(count)
    return Interval(mean, mean - half, mean + half)


def geometric(values: Sequence[float]) -> Interval:
    """Of the geometric mean of independent values, for what varies by factors. All NaN if any is not above 0."""
    if not all(value > 0 for value in values):
        return Interval(nan, nan, nan)
    logs = interval([log(value) for value in values])
    return Interval(exp(logs.mean), exp(logs.low), exp(logs.high))


def ratio(values: Sequence[float], bases: Sequence[float]) -> Interval:
    """Of the geometric mean of the ratios of paired values. All NaN if any is not above 0."""
    if not all(base > 0 for base in bases):
        return Interval(nan, nan, nan)
    return geometric([value / base for value, base in zip(values, bases, strict=True)])
