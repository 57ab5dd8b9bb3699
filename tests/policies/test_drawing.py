"""Candidates that are drawn by weight: how often, without repetition, and without those that may not be chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import permutations
from random import Random

import pytest

from rproxy.policies.drawing import FEW_CHOICES, MANY, Drawing, Record, failures, strained
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import OWN_RULE
from rproxy.pool.policy import Explanation
from rproxy.pool.states import Administration
from tests.fakes import UNLIMITED
from tests.policies.balancing import Balance, shares
from tests.pool.driving import agent


class Noting(Drawing):
    """Takes the last one drawn, and notes the candidates."""

    def __init__(self, choices: int, *, seed: int = 1, independent: bool = True) -> None:
        super().__init__(Random(seed), choices, independent=independent)
        self.drawn: list[Backend] = []

    def _pick(self, drawn: list[Record], now: float) -> Record:
        self.drawn = [record.backend for record in drawn]
        return drawn[-1]

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """Nothing."""

    def explain(self, backend: Backend, now: float) -> Explanation:
        return Explanation(0)


class Bench(Balance):
    """A pool whose policy notes what it draws."""

    def __init__(self, choices: int, *weights: int, independent: bool = True) -> None:
        self.noting = Noting(choices, independent=independent)
        super().__init__(self.noting)
        self.backends = [self.up(agent(number), weight=weight) for number, weight in enumerate(weights)]

    def draw(self, *exclude: Backend) -> list[Backend]:
        self.close(self.open(*exclude))
        return self.noting.drawn


def probability(order: Collection[int], total: float) -> float:
    """Of drawing these weights in this order, one after the other, without repetition."""
    result = 1.0
    for weight in order:
        result *= weight / total
        total -= weight
    return result


def test_candidates_are_drawn_by_weight_without_repetition() -> None:
    bench = Bench(4, 100, 200, 300, 400)
    orders = Counter(tuple(each.registration.weight for each in bench.draw()) for _ in range(20_000))
    for order in permutations((100, 200, 300, 400)):
        assert orders[order] == pytest.approx(20_000 * probability(order, 1000), rel=0.2, abs=40)


def test_those_excluded_leave_the_proportions_of_the_others() -> None:
    bench = Bench(4, 100, 50, 300, 400, 50)
    excluded = [bench.backends[1], bench.backends[3]]
    firsts: Counter[Backend] = Counter()
    for _ in range(9000):
        drawn = bench.draw(*excluded)
        assert set(drawn) == set(bench.backends) - set(excluded)
        firsts[drawn[0]] += 1
    expected = [2000, 0, 6000, 0, 1000]
    assert [firsts[backend] for backend in bench.backends] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("independent", [True, False])
def test_one_beside_the_largest_weights_is_drawn_at_bounded_cost(independent: bool) -> None:
    """Whoever draws until it gets another one would draw 65,535 times here."""
    bench = Bench(2, 65535, 1, independent=independent)
    assert {tuple(bench.draw()) for _ in range(20)} == {tuple(bench.backends)}


@pytest.mark.parametrize(("backends", "drawn"), [(1, 0), (2, 2), (3, 3), (MANY - 1, FEW_CHOICES), (MANY, 2), (20, 2)])
def test_of_few_backends_more_than_two_are_compared(backends: int, drawn: int) -> None:
    bench = Bench(2, *[100] * backends)
    assert len(set(bench.draw())) == len(bench.noting.drawn) == drawn


def test_few_clients_are_spread_as_the_weights_say() -> None:
    """Closer than independent draws would be: these deviate by 12 of 6,000."""
    for seed in range(20):
        balance = Balance(Noting(1, seed=seed, independent=False))
        backends = [balance.up(agent(number), weight=weight) for number, weight in enumerate((100, 100, 5))]
        assert shares(balance.serve(6000, held=False), backends) == pytest.approx([2927, 2927, 146], abs=12)


def test_the_share_of_slow_start_is_that_of_the_weight() -> None:
    balance = Balance(Noting(1), limits=UNLIMITED, slow_start_s=10)
    settled = balance.up(agent(1))
    balance.now += 10
    balance.pool.tick(balance.now)
    starting = balance.up(agent(2))
    assert starting.share == 0.1
    assert shares(balance.serve(11_000, held=False), [settled, starting]) == pytest.approx([10_000, 1000], rel=0.1)


def test_those_that_failed_are_drawn_by_weight_among_themselves() -> None:
    bench = Bench(1, 100, 300, 100)
    for backend in bench.backends[:2]:
        bench.refuse(backend)
    served = [bench.open(bench.backends[2]) for _ in range(4000)]
    assert shares(served, bench.backends) == pytest.approx([1000, 3000, 0], rel=0.1)


def test_in_a_panic_those_that_are_down_are_drawn() -> None:
    balance = Balance(Noting(2), limits=UNLIMITED, slow_start_s=0, panic_below=0.5)
    backends = balance.all_up(4)
    for backend in backends[:3]:
        balance.down(backend)
    assert balance.pool.panicking
    for _ in range(100):
        balance.pool.lost(balance.probe(backends[0]).request.token, balance.now)
    assert set(balance.serve(200, held=False)) == set(backends)


def test_a_backend_that_a_notification_missed_is_drawn_all_the_same() -> None:
    bench = Bench(2, 100, 100)
    bench.noting._drop(bench.backends[0])
    assert set(bench.draw()) == set(bench.backends)


def test_those_that_were_drained_and_came_back_use_no_more_memory() -> None:
    bench = Bench(2, *[100] * 10)
    for _ in range(50):
        for administration in (Administration.DRAIN, Administration.READY):
            for backend in bench.backends[:9]:
                bench.pool.administer(backend, administration, bench.now)
            bench.draw()
    assert len(bench.noting._at) == 10
    assert len(bench.noting._unused) == 0


class TestFailures:
    @pytest.fixture
    def bench(self) -> Bench:
        return Bench(1, 100)

    def record(self, bench: Bench) -> Record:
        return bench.noting._records[bench.backends[0]]

    def test_they_double_and_fade(self, bench: Bench) -> None:
        (backend,) = bench.backends
        for expected in (1, 3, 7):
            bench.refuse(backend)
            assert failures(self.record(bench), bench.now) == expected
        assert failures(self.record(bench), bench.now + 10) == pytest.approx(7 / 2.71828, rel=1e-3)

    def test_a_report_does_not_forgive_them(self, bench: Bench) -> None:
        (backend,) = bench.backends
        bench.refuse(backend)
        bench.report(backend)
        assert failures(self.record(bench), bench.now) == pytest.approx(1, abs=0.01)

    def test_they_are_bounded(self, bench: Bench) -> None:
        for _ in range(5000):
            bench.noting.failed(bench.backends[0], bench.now)
        assert failures(self.record(bench), bench.now) == 1000

    def test_each_counts_as_many_sessions_as_there_are_and_so_does_a_tenth_of_a_full_queue(self, bench: Bench) -> None:
        (backend,) = bench.backends
        assert strained(4, self.record(bench), backend, bench.now) == 4
        bench.refuse(backend)
        assert strained(4, self.record(bench), backend, bench.now) == 9
        bench.report(backend, after_s=0, load=20)
        assert strained(4, self.record(bench), backend, bench.now) == 19
        assert strained(0, None, backend, bench.now) == 2


def test_one_that_picks_by_itself_tells_who_was_drawn_and_no_rule() -> None:
    bench = Bench(3, 100, 100, 100, 100, 100)
    comparison = bench.noting.compare(bench.pool.eligible, None, (), bench.now, 64)
    chosen = bench.open()
    assert list(comparison.candidates) == bench.noting.drawn
    assert (comparison.rule, comparison.more, comparison.winner()) == (OWN_RULE, 1, None)
    assert chosen is comparison.candidates[-1]
