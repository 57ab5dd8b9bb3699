"""Weights from load reports: sessions finished for the utilisation."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from rproxy.policies.weighted_random import FACTOR_MAX, WeightedRandomOptions, WeightedRandomPolicy
from rproxy.pool.backend import Backend
from tests.policies.balancing import Balance, balance_by, shares


@pytest.fixture
def balance() -> Balance:
    return balance_by("weighted-random")


def run(balance: Balance, rates: dict[Backend, float], seconds: int = 60, **cpu: int) -> None:
    """Sessions end at these rates, each second; the back-ends report `cpu` by their position."""
    for _ in range(seconds):
        balance.now += 1
        for number, (backend, rate) in enumerate(rates.items()):
            for _ in range(round(rate)):
                balance.policy.closed(backend, balance.now, 0.1)
            balance.report(backend, after_s=0, cpu=cpu[f"cpu_{number}"])


def factor(balance: Balance, backend: Backend) -> float:
    return balance.pool.explain(backend, balance.now).terms["factor"]


def test_a_weight_is_what_is_finished_for_the_utilisation(balance: Balance) -> None:
    """Both at half their capacity, of which one has three times as much."""
    fast, slow = balance.all_up(2)
    run(balance, {fast: 30, slow: 10}, cpu_0=50, cpu_1=50)
    assert factor(balance, fast) / factor(balance, slow) == pytest.approx(3, rel=0.02)
    served = balance.serve(4000, held=False)
    assert shares(served, [fast, slow]) == pytest.approx([3000, 1000], rel=0.05)


def test_the_larger_one_of_cpu_and_application_load_is_the_utilisation(balance: Balance) -> None:
    (backend,) = balance.all_up(1)
    balance.now += 20
    balance.report(backend, cpu=40, load=70)
    for _ in range(200):
        balance.now += 1
        balance.report(backend, cpu=40, load=70)
    assert balance.pool.explain(backend, balance.now).terms["utilisation"] == pytest.approx(0.7, abs=0.01)


def test_figures_of_idle_hosts_say_nothing(balance: Balance) -> None:
    backends = balance.all_up(2)
    run(balance, {backends[0]: 30, backends[1]: 1}, cpu_0=3, cpu_1=9)
    assert [factor(balance, backend) for backend in backends] == [1, 1]


def test_a_host_that_finishes_nothing_is_still_tried(balance: Balance) -> None:
    stuck, well = balance.all_up(2)
    run(balance, {stuck: 0, well: 20}, cpu_0=100, cpu_1=50)
    assert factor(balance, stuck) == pytest.approx(1 / FACTOR_MAX)
    assert 0 < shares(balance.serve(2000, held=False), [stuck])[0] < 300


def test_the_first_seconds_of_a_backend_are_ignored() -> None:
    balance = Balance(WeightedRandomPolicy(Random(1), WeightedRandomOptions(blackout=30)))
    fast, slow = balance.all_up(2)
    run(balance, {fast: 30, slow: 10}, seconds=29, cpu_0=50, cpu_1=50)
    assert factor(balance, fast) == 1
    run(balance, {fast: 30, slow: 10}, seconds=2, cpu_0=50, cpu_1=50)
    assert factor(balance, fast) > 1


def test_figures_expire(balance: Balance) -> None:
    fast, slow = balance.all_up(2)
    run(balance, {fast: 30, slow: 10}, cpu_0=50, cpu_1=50)
    balance.now += 179
    balance.report(fast, after_s=0, cpu=None)
    assert factor(balance, fast) != 1
    balance.now += 2
    balance.report(fast, after_s=0, cpu=None)
    assert factor(balance, fast) == 1


def test_without_figures_the_weights_are_those_registered(balance: Balance) -> None:
    backends = balance.all_up(3)
    for _ in range(30):
        balance.now += 1
        for backend in backends:
            balance.report(backend, cpu=None, memory=None, tcp=None)
    assert [factor(balance, backend) for backend in backends] == [1, 1, 1]


def test_failures_are_utilisation(balance: Balance) -> None:
    """A host that fails all it gets is nearly idle."""
    failing, *others = balance.all_up(3)
    for _ in range(30):
        balance.now += 1
        for backend in others:
            for _ in range(10):
                balance.policy.closed(backend, balance.now, 0.1)
            balance.report(backend, after_s=0, cpu=50)
        balance.policy.failed(failing, balance.now)
        balance.report(failing, after_s=0, cpu=1)
    assert factor(balance, failing) == pytest.approx(1 / FACTOR_MAX)


def test_the_sums_over_the_pool_leave_nothing_of_those_that_went(balance: Balance) -> None:
    backends = balance.all_up(5)
    run(balance, dict.fromkeys(backends, 7), **{f"cpu_{number}": 10 * number + 35 for number in range(5)})
    policy = balance.policy
    assert isinstance(policy, WeightedRandomPolicy)
    assert min(policy._sums) > 0
    for backend in backends:
        balance.unregister((backend.address, 5555))
    assert policy._sums == (0, 0)


@pytest.mark.parametrize("options", [WeightedRandomOptions(penalty=0), WeightedRandomOptions(penalty=100)])
def test_extreme_figures_leave_weights_that_can_be_drawn(options: WeightedRandomOptions) -> None:
    balance = Balance(WeightedRandomPolicy(Random(1), options))
    backends = balance.all_up(3)
    rates: dict[Backend, float] = dict(zip(backends, (0, 1, 1000), strict=True))
    run(balance, rates, seconds=40, cpu_0=100, cpu_1=0, cpu_2=100)
    assert all(0 < balance.pool.explain(backend, balance.now).value < inf for backend in backends)
    assert len(balance.serve(100, held=False)) == 100
