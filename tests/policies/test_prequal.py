"""Prequal's hot-cold lexicographic rule."""

from __future__ import annotations

from random import Random

import pytest

from rproxy.policies.penalty import PENALTY_S
from rproxy.policies.prequal import HOT, PrequalOptions, PrequalPolicy
from rproxy.pool.backend import Backend
from tests.policies.balancing import Balance, balance_by, shares


@pytest.fixture
def balance() -> Balance:
    return balance_by("prequal")


def serve(balance: Balance, backend: Backend, *lengths_s: float) -> None:
    for length_s in lengths_s:
        balance.opened(backend)
        balance.close(backend, served_s=length_s)


def served(balance: Balance, sessions: int) -> list[Backend]:
    """Who served so many sessions of 0.1 s, one after the other."""
    found = []
    for _ in range(sessions):
        found.append(balance.open())
        balance.close(found[-1], served_s=0.1)
    return found


def test_of_the_cold_ones_the_fastest_wins_though_it_has_more_in_flight() -> None:
    balance = balance_by("prequal")
    fast, slow, hot = balance.all_up(3)
    serve(balance, fast, *[0.1] * 30)
    serve(balance, slow, *[10.0] * 30)
    balance.opened(fast, 2)
    balance.opened(slow, 2)
    balance.opened(hot, 9)
    assert {balance.choose() for _ in range(20) if balance.close(balance.open()) is None} == {fast}


def test_the_fastest_one_gets_nothing_while_it_is_hot(balance: Balance) -> None:
    fast, *slow = balance.all_up(5)
    serve(balance, fast, *[0.1] * 30)
    for backend in slow:
        serve(balance, backend, *[10.0] * 30)
    balance.opened(fast, 3)
    assert fast not in balance.serve(20, held=False)
    assert balance.pool.explain(fast, balance.now).terms["hot"] == 1
    assert balance.pool.explain(fast, balance.now).value > HOT > balance.pool.explain(slow[0], balance.now).value


def test_a_threshold_of_0_is_the_fewest_in_flight() -> None:
    balance = Balance(PrequalPolicy(Random(1), PrequalOptions(threshold=0)))
    backends = balance.all_up(5)
    serve(balance, backends[0], *[0.1] * 30)
    serve(balance, backends[1], *[10.0] * 30)
    assert shares(balance.serve(500, held=True), backends) == pytest.approx([100] * 5, abs=1)


def test_latency_is_predicted_for_what_is_in_flight(balance: Balance) -> None:
    (backend,) = balance.all_up(1)
    balance.opened(backend, 4)
    balance.close(backend, served_s=0.8)  # four in flight, this one included
    assert balance.pool.explain(backend, balance.now).terms["latency_s"] == pytest.approx(0.8)
    balance.close(backend, served_s=0.8)
    balance.close(backend, served_s=0.8)
    assert balance.pool.explain(backend, balance.now).terms["latency_s"] < 0.5


def test_one_that_was_slow_is_tried_again(balance: Balance) -> None:
    slow, *others = balance.all_up(3)
    serve(balance, slow, *[60.0] * 30)
    for backend in others:
        serve(balance, backend, *[0.1] * 300)
    assert slow not in served(balance, 30)
    balance.now += 100
    assert slow in served(balance, 60)


class TestElsewhere:
    """What is in flight besides our sessions."""

    def in_flight(self, balance: Balance, backend: Backend) -> float:
        return balance.pool.explain(backend, balance.now).terms["in flight"]

    def test_sessions_of_other_proxies_are_in_flight(self, balance: Balance) -> None:
        (backend,) = balance.all_up(1)
        balance.opened(backend, 2)
        balance.report(backend, tcp=9, others=7)
        assert self.in_flight(balance, backend) == 9

    def test_connections_that_are_always_there_are_not(self, balance: Balance) -> None:
        backend, _ = balance.all_up(2)
        balance.unregister((backend.address, 5555))
        backend = balance.register((backend.address, 5555), instance=2)
        for _ in range(10):
            balance.answer(balance.probe(backend, balance.candidate(backend)), tcp=100)
        assert self.in_flight(balance, backend) == 0
        assert backend in balance.serve(10, held=True)

    def test_those_that_come_are_and_in_minutes_no_more(self, balance: Balance) -> None:
        (backend,) = balance.all_up(1)
        balance.report(backend, tcp=0)
        balance.report(backend, tcp=22)
        assert self.in_flight(balance, backend) == pytest.approx(20, abs=0.01)
        balance.now += 600
        balance.report(backend, tcp=22)
        assert self.in_flight(balance, backend) == pytest.approx(0, abs=0.1)

    def test_one_that_cannot_count_is_taken_at_our_word(self, balance: Balance) -> None:
        (backend,) = balance.all_up(1)
        balance.report(backend, tcp=None, others=3)
        assert self.in_flight(balance, backend) == 3


def test_one_that_failed_is_as_if_it_were_busy(balance: Balance) -> None:
    failed, *others = balance.all_up(4)
    balance.refuse(failed)
    balance.now += PENALTY_S
    balance.report(failed)
    assert failed not in balance.serve(40, held=False)
    balance.now += 100
    assert failed in balance.serve(40, held=False)
    assert set(others) <= set(balance.serve(40, held=False))
