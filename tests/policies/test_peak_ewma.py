"""The peak-sensitive average of session lengths, times the sessions."""

from __future__ import annotations

from math import exp

import pytest

from rproxy.pool.backend import Backend
from tests.policies.balancing import Balance, balance_by, shares


@pytest.fixture
def balance() -> Balance:
    return balance_by("peak-ewma")


def latency_s(balance: Balance, backend: Backend) -> float:
    return balance.pool.explain(backend, balance.now).terms["latency_s"]


def serve(balance: Balance, backend: Backend, *lengths_s: float) -> None:
    """Sessions that lasted so long."""
    for length_s in lengths_s:
        balance.opened(backend)
        balance.close(backend, served_s=length_s)


def test_a_longer_session_counts_whole_and_shorter_ones_by_the_time_since(balance: Balance) -> None:
    backend, other = balance.all_up(2)
    serve(balance, other, *[20.0] * 100)  # the pool's average: no latency below it is forgotten without sessions
    serve(balance, backend, 1.0, 3.0)
    assert latency_s(balance, backend) == 3
    balance.now += 10
    serve(balance, backend, 1.0)
    assert latency_s(balance, backend) == pytest.approx(1 + 2 * exp(-1))


def test_the_slower_one_gets_fewer(balance: Balance) -> None:
    fast, slow = balance.all_up(2)
    serve(balance, fast, *[0.1] * 10)
    serve(balance, slow, *[0.4] * 10)
    assert shares(balance.serve(50, held=True), [fast, slow]) == pytest.approx([40, 10], abs=3)


def test_differences_below_a_factor_of_two_are_ties_between_idle_ones(balance: Balance) -> None:
    backends = balance.all_up(3)
    for backend, length_s in zip(backends, (0.10, 0.12, 0.19), strict=True):
        serve(balance, backend, length_s)
    served = [balance.open() for _ in range(1)]
    for _ in range(599):
        balance.close(served[-1], served_s=latency_s(balance, served[-1]))
        served.append(balance.open())
    assert max(shares(served, backends)) < 300


def test_one_that_was_slow_is_tried_again(balance: Balance) -> None:
    """Without sessions, its latency approaches that of the pool."""
    slow, *others = balance.all_up(3)
    for backend in others:
        serve(balance, backend, *[0.1] * 200)
    serve(balance, slow, 60.0)
    assert slow not in balance.serve(30, held=False)
    balance.now += 100
    assert latency_s(balance, slow) < 1.1
    assert slow in balance.serve(30, held=True)


def test_one_that_is_not_measured_gets_one_session_and_then_fewer_until_that_ends(balance: Balance) -> None:
    newcomer, *others = balance.all_up(3)
    for backend in others:
        serve(balance, backend, *[0.1] * 100)
    served = balance.serve(20, held=True)
    assert served.count(newcomer) in (1, 2)
    serve(balance, newcomer, 0.1)
    assert balance.serve(20, held=True).count(newcomer) >= 10


def test_where_nothing_is_measured_the_sessions_decide(balance: Balance) -> None:
    backends = balance.all_up(4)
    assert shares(balance.serve(40, held=True), backends) == [10] * 4


def test_sessions_that_failed_have_no_length(balance: Balance) -> None:
    backend, _ = balance.all_up(2)
    serve(balance, backend, 2.0)
    balance.refuse(backend)
    assert latency_s(balance, backend) == 2


def test_lengths_of_nothing_are_no_reason_to_get_everything(balance: Balance) -> None:
    backends = balance.all_up(2)
    serve(balance, backends[0], 0.0)
    serve(balance, backends[1], 0.0009)
    served = balance.serve(400, held=False)
    assert shares(served, backends) == pytest.approx([200, 200], abs=40)
