"""The power of two choices."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from rproxy.policies.rules import takes_over
from rproxy.policies.two_choices import TwoChoicesOptions, TwoChoicesPolicy
from tests.policies.balancing import Balance, balance_by, shares
from tests.pool.driving import agent


@pytest.fixture
def balance() -> Balance:
    return balance_by("p2c")


def test_the_fewest_sessions_of_few_win(balance: Balance) -> None:
    backends = balance.all_up(4)
    balance.serve(40, held=True)
    for backend in backends[:3]:
        balance.opened(backend)
    for _ in range(20):
        assert balance.choose() is backends[3]
        balance.close(balance.open())


def test_of_many_the_fullest_gets_nothing_and_the_others_by_chance(balance: Balance) -> None:
    backends = balance.all_up(20)
    balance.opened(backends[0], 5)
    served = balance.serve(4000, held=False)
    assert backends[0] not in served
    assert min(shares(served, backends[1:])) > 100


def test_it_is_far_more_even_than_chance() -> None:
    """With n sessions on n back-ends the fullest has ln ln n / ln 2 + O(1), not ln n / ln ln n (Mitzenmacher)."""
    fullest = []
    for name in ("p2c", "random"):
        balance = balance_by(name)
        balance.all_up(500)
        fullest.append(max(Counter(balance.serve(2500, held=True)).values()))
    assert fullest[0] <= 8 < 11 <= fullest[1]


def test_sessions_of_other_proxies_count(balance: Balance) -> None:
    ours, others = balance.all_up(2)
    balance.report(others, tcp=5, others=5)
    assert set(balance.serve(5, held=True)) == {ours}
    assert balance.pool.explain(others, balance.now).terms["sessions"] == 5


def test_connections_that_are_not_sessions_do_not_count(balance: Balance) -> None:
    backends = balance.all_up(2)
    balance.report(backends[0], tcp=500, others=0)
    assert shares(balance.serve(40, held=True), backends) == [20, 20]


def test_one_that_fails_fast_is_not_idle(balance: Balance) -> None:
    """Its next report comes soon, and does not make it as good as the others."""
    sinkhole, *others = balance.all_up(3)
    for backend in others:
        balance.opened(backend, 3)
    failures = 0
    for _ in range(300):
        backend = balance.open()
        balance.now += 0.02
        if backend is sinkhole:
            failures += 1
            balance.pool.refused(sinkhole, balance.now)
            sinkhole.health.refusals = 0
        balance.close(backend, was_connected=True)
        balance.report(sinkhole)
    assert 1 <= failures <= 10


def test_a_queue_that_fills_counts(balance: Balance) -> None:
    full, well = balance.all_up(2)
    balance.report(full, load=100)
    assert set(balance.serve(8, held=True)) == {well}


def test_more_choices_compare_more() -> None:
    balance = Balance(TwoChoicesPolicy(Random(1), TwoChoicesOptions(choices=16)))
    backends = balance.all_up(16)
    for backend in backends[:15]:
        balance.opened(backend)
    assert {balance.choose() for _ in range(10)} == {backends[15]}


@pytest.mark.parametrize(
    ("this", "other", "takes"),
    [
        ((1, 0, 100), (1, 0, 100), False),
        ((1, 0, 100), (1, 1, 100), True),
        ((1, 5, 100), (1, 5, 100), False),
        ((1, 0, 5), (1, 1, 100), False),
        ((1, 0, 100), (1, 0, 5), False),
        ((1, 0, 100), (1, 1, 5), True),
        ((1, 0, 5), (1, 20, 100), True),
        ((1, 0, 100), (1.9, 0, 100), False),
        ((1, 0, 100), (2, 0, 100), True),
        ((1, 9, 100), (1.2, 9, 100), True),
    ],
)
def test_the_one_drawn_first_stays_unless_the_other_is_clearly_less_loaded(
    this: tuple[float, float, float], other: tuple[float, float, float], takes: bool
) -> None:
    assert takes_over(*this, other) is takes


def test_the_value_explained_is_what_a_weight_of_100_would_have() -> None:
    balance = balance_by("p2c")
    double = balance.up(agent(1), weight=200)
    balance.opened(double, 3)
    explained = balance.pool.explain(double, balance.now)
    assert (explained.value, dict(explained.terms)) == (
        2,
        {"sessions": 3, "failures": 0, "queue": 0, "weight": 200},
    )
