"""Averages of session lengths, read by their age."""

from __future__ import annotations

from math import exp

import pytest

from rproxy.policies.latency import Latencies, Latency


def noted(latencies: Latencies, seconds: float, *, times: int = 1, at: float = 0.0) -> Latency:
    latency = Latency()
    for _ in range(times):
        latencies.set(latency, seconds, seconds, at)
    return latency


def test_before_the_first_session_a_second_is_usual() -> None:
    assert Latencies(10).usual_s == 1


def test_the_first_session_is_usual_and_the_others_move_it_slowly() -> None:
    latencies = Latencies(10)
    noted(latencies, 2.0)
    assert latencies.usual_s == 2
    noted(latencies, 4.0)
    assert 2 < latencies.usual_s < 2.1
    noted(latencies, 4.0, times=1000)
    assert latencies.usual_s == pytest.approx(4)


def test_one_above_the_usual_approaches_it_and_one_below_stays() -> None:
    latencies = Latencies(10)
    noted(latencies, 2.0, times=10_000)
    slow, fast = Latency(), Latency()
    slow.seconds, fast.seconds = 5.0, 1.0
    assert [latencies.read(each, 0) for each in (slow, fast)] == [5, 1]
    assert [latencies.read(each, 10) for each in (slow, fast)] == pytest.approx([2 + 3 * exp(-1), 1])
    assert latencies.read(slow, 1e6) == pytest.approx(2)
