"""Counts of values by buckets, as Prometheus has them, for a hot path: prometheus_client's own take 2 µs a value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf


class Histogram:
    """Buckets with the upper `bounds`, which ascend and are included, and one for all larger values."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.buckets = [0] * (len(self.bounds) + 1)
        """Of each bucket alone; incremented inline where a call would cost too much."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound, infinity last, with the number of values up to it."""
        return zip((*self.bounds, inf), accumulate(self.buckets), strict=True)
