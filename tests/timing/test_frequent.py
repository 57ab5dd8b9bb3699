"""The most frequent of many keys."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rproxy.timing.frequent import Frequent


def test_without_keys_there_is_none() -> None:
    assert Frequent(3).top() is None


def test_few_keys_are_counted_exactly() -> None:
    found: Frequent[str] = Frequent(3)
    for key in "abcabb":
        found.add(key)
    assert found.top() == ("b", 3, 3)


def test_a_frequent_key_is_found_among_any_number_of_others() -> None:
    found: Frequent[object] = Frequent(10)
    for number in range(10_000):
        found.add("often" if number % 5 == 0 else number)
    top = found.top()
    assert top is not None
    key, least, most = top
    assert key == "often"
    assert least <= 2000 <= most


@given(keys=st.lists(st.integers(0, 8), max_size=200), keys_max=st.integers(1, 6))
def test_its_bounds_hold_and_its_memory_too(keys: list[int], keys_max: int) -> None:
    found: Frequent[int] = Frequent(keys_max)
    for key in keys:
        found.add(key)
        assert len(found._counts) <= keys_max
    true, top = Counter(keys), found.top()
    if top is not None:
        key, least, most = top
        assert least <= true[key] <= most
    assert all(count <= len(keys) / (keys_max + 1) for key, count in true.items() if key not in found._counts)
