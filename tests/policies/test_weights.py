"""Registered weights."""

from __future__ import annotations

from rproxy.policies.weights import Weights


def test_they_differ_while_two_are_not_equal() -> None:
    weights = Weights()
    said = []
    for before, after in ((0, 100), (0, 100), (100, 5), (5, 100), (0, 7), (7, 0)):
        weights.replace(before, after)
        said.append((weights.differ, weights.mean))
    assert said == [(False, 100), (False, 100), (True, 52.5), (False, 100), (True, 69), (False, 100)]


def test_only_a_change_is_one() -> None:
    weights = Weights()
    weights.replace(0, 100)
    weights.moved = False
    weights.replace(100, 100)
    assert not weights.moved
    weights.replace(100, 0)
    assert weights.moved
