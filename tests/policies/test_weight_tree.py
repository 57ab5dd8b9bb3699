"""Partial sums of weights, against a plain list."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from rproxy.policies.weight_tree import WeightTree


def tree_of(weights: list[int]) -> WeightTree:
    tree = WeightTree()
    for index, weight in enumerate(weights):
        tree.set(index, weight)
    return tree


def test_an_empty_tree_has_no_weight() -> None:
    tree = WeightTree()
    assert (tree.total, tree.count, tree.weight(0), tree.weight(99), tree.start(0)) == (0, 0, 0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 7) | st.just(65_535_000)), max_size=60))
def test_every_point_is_in_the_weight_that_covers_it(changes: list[tuple[int, int]]) -> None:
    tree, weights = WeightTree(), [0] * 41
    for index, weight in changes:
        tree.set(index, weight)
        weights[index] = weight
    ends = list(accumulate(weights))
    assert (tree.total, tree.count) == (ends[-1], sum(weight > 0 for weight in weights))
    for index, weight in enumerate(weights):
        start = ends[index] - weight
        assert tree.weight(index) == weight
        if index <= max((index for index, _ in changes), default=0):
            assert tree.start(index) == start
        for point in {start, start + weight // 2, start + weight - 1} if weight else set[int]():
            assert tree.find(point) == (index, start)


def test_one_beside_the_largest_weight_keeps_its_part() -> None:
    tree = tree_of([65535, 1, 65535])
    assert [tree.find(point)[0] for point in (65534, 65535, 65536)] == [0, 1, 2]


def test_a_weight_of_nothing_is_never_found() -> None:
    tree = tree_of([0, 2, 0, 0, 1, 0])
    assert [tree.find(point) for point in range(3)] == [(1, 0), (1, 0), (4, 2)]
