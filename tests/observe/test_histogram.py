"""Buckets as Prometheus defines them."""

from __future__ import annotations

from math import inf, nextafter

from rproxy.observe.histogram import Histogram


def test_a_bucket_includes_its_upper_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, nextafter(1.0, 2.0), 2.0, 2.5, inf):
        histogram.add(value)
    assert list(histogram.cumulative()) == [(1.0, 2), (2.0, 4), (inf, 6)]


def test_the_sum_is_that_of_all_values() -> None:
    histogram = Histogram((1.0,))
    for value in (0.25, 8.0):
        histogram.add(value)
    assert (histogram.sum, list(histogram.cumulative())) == (8.25, [(1.0, 1), (inf, 2)])
