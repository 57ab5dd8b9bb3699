"""Rates by key that no flood of keys can grow or clear."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.timing.rate_limit import RateLimit
from rproxy.timing.rate_table import RateTable

START = 1000.0


def admitted(table: RateTable, times: Iterable[float], key: str = "") -> list[float]:
    return [now for now in times if table.admit(now, key)]


@pytest.mark.parametrize(("rate", "at_once"), [(0.1, 1), (1.0, 1), (2.5, 2), (20.0, 20)])
def test_as_many_at_once_as_in_a_second_and_one_at_least(rate: float, at_once: int) -> None:
    assert len(admitted(RateTable(rate), [START] * 100)) == at_once


@pytest.mark.parametrize("rate", [0.2, 1.0, 3.0, 50.0])
def test_then_the_rate_is_kept_for_ever(rate: float) -> None:
    table = RateTable(rate)
    steps = [START + number / rate / 8 for number in range(8 * 100)]
    count = len(admitted(table, steps))
    assert 100 <= count <= 100 + max(int(rate), 1)


def test_every_key_has_its_own() -> None:
    table = RateTable(1.0)
    assert [table.admit(START, key) for key in "abab"] == [True, True, False, False]


@given(
    rate=st.sampled_from([0.25, 1.0, 2.0, 7.0]),
    steps=st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abc")), max_size=60),
)
def test_a_key_is_forgotten_only_once_it_has_no_effect(rate: float, steps: list[tuple[float, str]]) -> None:
    """It admits what the same algorithm admits that never forgets."""
    table, reference = RateTable(rate), RateLimit(rate, max(int(rate), 1))
    now = START
    for step_s, key in steps:
        now += step_s
        assert table.admit(now, key) == reference.admit(now, key)


def test_keys_beyond_the_table_neither_grow_it_nor_drop_another() -> None:
    table = RateTable(1.0, keys_max=10)
    assert table.admit(START, "known")
    for number in range(1000):
        assert table.admit(START + 0.0005 * number, f"attacker {number}")
    assert len(table) == 10
    assert not table.admit(START + 0.9, "known")


def test_a_full_table_takes_others_once_its_keys_have_no_effect() -> None:
    table = RateTable(1.0, keys_max=10)
    for number in range(10):
        table.admit(START, f"{number}")
    assert table.admit(START, "new")
    assert table.admit(START, "new")
    assert table.admit(START + 2.0, "new")
    assert not table.admit(START + 2.0, "new")
    assert len(table) == 1


def test_a_known_key_stays_counted_in_a_full_table() -> None:
    """One that keeps coming is kept, however many others come."""
    table = RateTable(1.0, keys_max=10)
    times = 0
    for tenth in range(100):
        now = START + tenth / 10
        times += table.admit(now, "known")
        for number in range(20):
            table.admit(now, f"attacker {tenth} {number}")
        assert len(table) <= 10
    assert times == 10
