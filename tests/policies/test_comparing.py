"""What a policy says that it compares: the winner follows from it alone, and nothing else changes by asking."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rproxy.policies.affinity import FEW, Affinity
from rproxy.policies.ranked import LOOKS, Ranked
from rproxy.policies.registry import POLICIES
from rproxy.policies.rules import LOWEST
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import OWN_RULE, Comparison
from tests.fakes import CountingPolicy
from tests.policies.balancing import Balance, policy
from tests.policies.choosing import AFFINITY, NAMES, Turmoil
from tests.pool.driving import agent

pytestmark = pytest.mark.no_cover

MOST = 64
RANKED = [name for name in sorted(POLICIES) if isinstance(policy(name), Ranked)]


def compared(turmoil: Balance, *exclude: Backend, most: int = MOST) -> Comparison[Backend]:
    comparison = turmoil.pool.compare(turmoil.pool.eligible, None, exclude, turmoil.now, most)
    assert comparison is not None
    return comparison


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "most"), [(200, MOST), (40, 5), (12, 1)])
def test_of_many_back_ends_the_winner_is_always_among_those_recorded(name: str, size: int, most: int) -> None:
    turmoil = Turmoil(name, size)
    pool = turmoil.pool
    for client in turmoil.clients(2000):
        comparison = pool.compare(pool.eligible, client.address, client.exclude, turmoil.now, most)
        chosen = pool.choose(turmoil.now, client.exclude, client.address)
        assert comparison is not None
        assert comparison.winner() is chosen is not None
        turmoil.take(chosen)


@pytest.mark.parametrize("name", NAMES)
def test_asking_changes_no_choice(name: str) -> None:
    """Two pools live through the same; of one every choice, value and explanation is asked for."""
    asked, other = Turmoil(name, 9), Turmoil(name, 9)
    for client, same in zip(asked.clients(4000), other.clients(4000), strict=True):
        pool = asked.pool
        pool.compare(pool.eligible, client.address, client.exclude, asked.now, MOST)
        for backend in asked.backends:
            pool.explain(backend, asked.now)
            asked.policy.value(backend, asked.now)  # type: ignore[attr-defined]
        chosen = pool.choose(asked.now, client.exclude, client.address)
        other_chosen = other.pool.choose(other.now, same.exclude, same.address)
        assert (chosen and chosen.name) == (other_chosen and other_chosen.name)
        asked.take(chosen)
        other.take(other_chosen)


@pytest.mark.parametrize("name", NAMES)
def test_the_value_is_the_one_explained(name: str) -> None:
    turmoil = Turmoil(name, 9)
    for client in turmoil.clients(1000):
        for backend in turmoil.backends:
            value = turmoil.policy.value(backend, turmoil.now)  # type: ignore[attr-defined]
            assert value == turmoil.pool.explain(backend, turmoil.now).value
        turmoil.take(turmoil.pool.choose(turmoil.now, client.exclude, client.address))


@pytest.mark.parametrize("name", RANKED)
def test_ranks_are_in_the_order_of_the_values_explained(name: str) -> None:
    turmoil = Turmoil(name, 9)
    for client in turmoil.clients(1000):
        comparison = compared(turmoil)
        ranks = [key[1] for key in comparison.keys]
        values = [turmoil.pool.explain(backend, turmoil.now).value for backend in comparison.candidates]
        by_rank = [value for _, value in sorted(zip(ranks, values, strict=True))]
        assert all(higher >= lower - 1e-6 * abs(lower) for lower, higher in pairwise(by_rank))
        turmoil.take(turmoil.pool.choose(turmoil.now, client.exclude, client.address))


class TestRanked:
    def test_all_are_candidates_of_a_small_pool_without_those_excluded(self) -> None:
        balance = Balance(policy("least-connections"))
        excluded, *others = balance.all_up(5)
        comparison = compared(balance, excluded)
        assert set(comparison.candidates) == set(others)
        assert (comparison.more, comparison.floor) == (0, None)

    def test_of_a_large_one_the_lowest_and_how_many_more_there_are(self) -> None:
        balance = Balance(policy("least-connections"))
        backends = balance.all_up(100)
        for number, backend in enumerate(backends):
            balance.opened(backend, number)
        balance.serve(50, held=True)
        comparison = compared(balance, backends[0], most=10)
        assert len(comparison.candidates) == 10
        assert comparison.more == 89
        assert comparison.floor is not None
        left = set(backends[1:]) - set(comparison.candidates)
        assert isinstance(balance.policy, Ranked)
        assert all((False, *balance.policy.rank(backend)) >= comparison.floor[:3] for backend in left)
        assert comparison.winner() is balance.choose(backends[0])

    def test_dead_entries_of_the_heap_are_passed_over_up_to_a_bound(self) -> None:
        balance = Balance(policy("least-connections"))
        backends = balance.all_up(30)
        for _ in range(3):
            for backend in backends:
                balance.lease(backend)
            for backend in backends:
                balance.close(backend)
        for most in range(1, 30):
            comparison = compared(balance, most=most)
            assert most // LOOKS <= len(comparison.candidates) <= most
            assert comparison.winner() is balance.choose()

    def test_one_left_out_that_may_be_better_leaves_no_winner(self) -> None:
        assert Comparison(LOWEST, ["a", "b"], [(2.0,), (1.0,)], floor=(1.5,)).winner() == "b"
        assert Comparison(LOWEST, ["a", "b"], [(2.0,), (1.0,)], floor=(0.5,)).winner() is None


def test_a_comparison_of_few_that_are_drawn_by_weight_tells_the_part_of_each() -> None:
    balance = Balance(policy("random"))
    first, excluded, last = (balance.up(agent(number), weight=100 * number) for number in (1, 2, 3))
    comparison = compared(balance, excluded)
    assert list(comparison.candidates) == [first, last]
    assert list(comparison.keys) == [(0, 1000), (1000, 3000)]
    point, whole = comparison.given
    assert whole == 4000
    assert comparison.winner() is (first if point < 1000 else last)
    (drawn,) = compared(balance, excluded, most=2).candidates
    assert drawn is comparison.winner()


class TestAffinity:
    def test_the_order_of_the_client_up_to_the_first_with_room(self) -> None:
        turmoil = Turmoil(AFFINITY, 5)
        pool, now = turmoil.pool, turmoil.now
        address = ("10.9.0.1", 1)
        first = pool.would_choose(now, (), address)
        assert first is not None
        comparison = pool.compare(pool.eligible, address, (), now, MOST)
        assert comparison is not None
        assert (list(comparison.candidates), comparison.more) == ([first], 4)
        comparison = pool.compare(pool.eligible, address, (first,), now, MOST)
        assert comparison is not None
        assert comparison.more == 3
        assert first not in comparison.candidates

    def test_beyond_it_what_the_wrapped_policy_compares(self) -> None:
        turmoil = Turmoil(AFFINITY, 5)
        pool, now, address = turmoil.pool, turmoil.now, ("10.9.0.1", 1)
        only = turmoil.backends[0]
        while pool.would_choose(now, turmoil.backends[1:], address) is only and only.connections < FEW:
            turmoil.lease(only)
        comparison = pool.compare(pool.eligible, address, turmoil.backends[1:], now, MOST)
        assert comparison is not None
        assert comparison.otherwise is not None
        assert comparison.winner() is pool.would_choose(now, turmoil.backends[1:], address)

    def test_a_wrapped_policy_that_tells_nothing(self) -> None:
        balance = Balance(Affinity(CountingPolicy()))
        balance.all_up(2)
        comparison = compared(balance)
        assert comparison.rule is OWN_RULE
        assert comparison.winner() is None
