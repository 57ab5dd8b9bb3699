"""How often something may happen, and how much of it is remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.timing.rate_limit import KEYS_MAX, RateLimit, trim

START = 1000.0


def admitted(limit: RateLimit, times: Iterable[float], key: str = "") -> list[float]:
    return [now for now in times if limit.admit(now, key)]


def every(step_s: float, seconds: float) -> list[float]:
    return [START + number * step_s for number in range(round(seconds / step_s))]


@pytest.mark.parametrize("burst", [1, 2, 5, 200])
def test_so_many_may_happen_at_once_and_no_more(burst: int) -> None:
    limit = RateLimit(1.0, burst)
    assert len(admitted(limit, [START] * (3 * burst))) == burst


def test_one_at_a_time_unless_told_otherwise() -> None:
    assert len(admitted(RateLimit(1.0), [START] * 3)) == 1


@pytest.mark.parametrize(("rate", "burst"), [(1.0, 5), (50.0, 1), (200.0, 200), (0.5, 2)])
def test_after_a_burst_the_rate_is_kept(rate: float, burst: int) -> None:
    limit = RateLimit(rate, burst)
    assert len(admitted(limit, [START] * burst)) == burst
    times = admitted(limit, every(0.1 / rate, 20.5 / rate))
    assert times == pytest.approx([START + number / rate for number in range(1, 21)])


def test_after_one_at_a_time_the_next_waits_for_its_turn() -> None:
    limit = RateLimit(4.0)
    assert admitted(limit, [START, START + 0.24, START + 0.25, START + 0.49, START + 0.5]) == [
        START,
        START + 0.25,
        START + 0.5,
    ]


@pytest.mark.parametrize(("rest_s", "again"), [(0.0, 0), (0.99, 0), (1.0, 1), (2.5, 2), (4.0, 4), (5.0, 5), (1e6, 5)])
def test_rest_earns_the_burst_again_and_no_more_than_that(rest_s: float, again: int) -> None:
    limit = RateLimit(1.0, 5)
    admitted(limit, [START] * 5)
    assert len(admitted(limit, [START + rest_s] * 10)) == again


def test_what_is_refused_costs_nothing() -> None:
    limit = RateLimit(1.0)
    assert admitted(limit, [START, *every(0.001, 1.0), START + 1.0]) == [START, START + 1.0]


def test_each_key_has_a_limit_of_its_own() -> None:
    limit = RateLimit(1.0, 2)
    assert len(admitted(limit, [START] * 5, "10.0.0.1")) == 2
    assert len(admitted(limit, [START] * 5, "10.0.0.2")) == 2
    assert admitted(limit, [START] * 5, "10.0.0.1") == []
    assert len(admitted(limit, [START] * 5)) == 2


def test_at_the_rate_itself_nothing_is_ever_refused() -> None:
    """The sums of a third of a second are no whole seconds."""
    limit = RateLimit(3.0)
    now = START
    for _ in range(1000):
        assert limit.admit(now)
        now += 1 / 3


def test_the_wait_is_until_the_next_one_may_happen() -> None:
    limit = RateLimit(2.0, 3)
    assert limit.wait_s(START) == 0.0
    for _ in range(3):
        limit.admit(START)
    assert limit.wait_s(START) == pytest.approx(0.5)
    assert limit.wait_s(START + 0.125) == pytest.approx(0.375)
    assert limit.wait_s(START + 0.5) == 0.0
    assert limit.wait_s(START, "another") == 0.0


def test_asking_for_the_wait_uses_nothing_up() -> None:
    limit = RateLimit(1.0)
    for _ in range(10):
        limit.wait_s(START)
    assert limit.admit(START)


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 10),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_in_no_time_is_there_more_than_the_burst_and_the_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    limit = RateLimit(rate, burst)
    now, times = START, []
    for gap in gaps:
        now += gap / rate
        waits = limit.wait_s(now)
        granted = limit.admit(now)
        assert granted is (waits == 0)
        if granted:
            times.append(now)
    assert times[0] == START + gaps[0] / rate
    for first, begin in enumerate(times):
        for last, end in enumerate(times[first:], first):
            assert last - first + 1 <= burst + rate * (end - begin) + 1e-6


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 10),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_nothing_waits_longer_than_it_must(rate: float, burst: int, gaps: list[float]) -> None:
    """Once the wait is over, it may happen; and where it may not, one more would be too many."""
    limit = RateLimit(rate, burst)
    now, times = START, []
    for gap in gaps:
        now += gap / rate
        wait_s = limit.wait_s(now)
        assert 0 <= wait_s <= 1 / rate + 1e-9
        if wait_s:
            now += wait_s
        assert limit.admit(now)
        times.append(now)
        if wait_s > 1e-6:
            counts = (len(times) - first - burst - rate * (now - begin) for first, begin in enumerate(times))
            assert max(counts) == pytest.approx(0, abs=1e-3)


def test_however_many_keys_there_are_memory_is_bounded() -> None:
    limit = RateLimit(1.0)
    for number in range(3 * KEYS_MAX):
        assert limit.admit(START, str(number))
    assert len(limit._due) == KEYS_MAX


def test_the_keys_longest_unused_are_dropped() -> None:
    limit = RateLimit(0.001)
    for number in range(KEYS_MAX):
        limit.admit(START, str(number))
    limit.admit(START + 1000, "0")
    limit.admit(START + 1000, "one more")
    assert limit.wait_s(START + 1000, "0") > 0
    assert limit.wait_s(START + 500, "2") > 0
    assert limit.wait_s(START + 500, "1") == 0


@pytest.mark.parametrize(
    ("size", "left"), [(5, [3, 1, 2]), (3, [3, 1, 2]), (2, [1, 2]), (1, [2]), (0, [])], ids=lambda value: str(value)
)
def test_trimming_drops_what_was_put_in_first(size: int, left: list[int]) -> None:
    table = OrderedDict({3: "three", 1: "one", 2: "two"})
    trim(table, size)
    assert list(table) == left
