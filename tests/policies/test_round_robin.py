"""Random choice and round robin."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.policies.balancing import ABSENCES, Balance, balance_by, come_back, leave, shares
from tests.pool.driving import agent


class TestRandom:
    def test_it_is_distributed_by_weight(self) -> None:
        balance = balance_by("random")
        backends = [balance.up(agent(weight), weight=weight) for weight in (100, 200, 700)]
        assert shares(balance.serve(10_000, held=False), backends) == pytest.approx([1000, 2000, 7000], rel=0.1)

    def test_it_does_not_depend_on_the_choice_before(self) -> None:
        """Every pair of successive choices is equally likely: no alternation, no runs."""
        balance = balance_by("random")
        backends = balance.all_up(2)
        served = balance.serve(8000, held=False)
        pairs = Counter(pairwise(served))
        for before in backends:
            for after in backends:
                assert pairs[before, after] == pytest.approx(2000, rel=0.1)

    def test_it_does_not_depend_on_the_load(self) -> None:
        balance = balance_by("random")
        loaded, idle = balance.all_up(2)
        balance.report(loaded, cpu=100, memory=100, tcp=1000)
        assert shares(balance.serve(4000, held=True), [loaded, idle]) == pytest.approx([2000, 2000], rel=0.1)

    def test_another_source_of_randomness_gives_another_order(self) -> None:
        orders = []
        for seed in (1, 2):
            balance = balance_by("random", seed=seed)
            balance.all_up(5)
            orders.append([backend.name for backend in balance.serve(20, held=False)])
        assert orders[0] != orders[1]

    @pytest.mark.parametrize("way", ABSENCES)
    def test_one_that_comes_back_does_not_catch_up(self, way: str) -> None:
        balance = balance_by("random")
        returns, other = balance.all_up(2)
        leave(balance, returns, way)
        balance.serve(1000, held=False)
        come_back(balance, returns, way)
        assert shares(balance.serve(1000, held=False), [returns, other]) == pytest.approx([500, 500], rel=0.15)


class TestRoundRobin:
    @pytest.fixture
    def balance(self) -> Balance:
        return balance_by("round-robin")

    def test_it_goes_round(self, balance: Balance) -> None:
        backends = balance.all_up(4)
        served = balance.serve(20, held=True)
        assert set(served[:4]) == set(backends)
        assert served == served[:4] * 5

    def test_double_the_weight_is_double_the_turns(self, balance: Balance) -> None:
        double, single = balance.up(agent(1), weight=200), balance.up(agent(2), weight=100)
        served = balance.serve(30, held=True)
        assert shares(served, [double, single]) == [20, 10]
        assert (single, single) not in pairwise(served)

    def test_it_does_not_depend_on_the_load(self, balance: Balance) -> None:
        loaded, idle = balance.all_up(2)
        balance.report(loaded, cpu=100, memory=100, tcp=1000)
        assert shares(balance.serve(10, held=True), [loaded, idle]) == [5, 5]

    @pytest.mark.parametrize("way", ABSENCES)
    def test_one_that_comes_back_does_not_catch_up(self, balance: Balance, way: str) -> None:
        returns, other = balance.all_up(2)
        leave(balance, returns, way)
        balance.serve(100, held=True)
        come_back(balance, returns, way)
        assert shares(balance.serve(20, held=True), [returns, other]) == pytest.approx([10, 10], abs=1)

    def test_reports_do_not_move_a_turn(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        served = []
        for _ in range(12):
            served.append(balance.open())
            balance.report(backends[0], cpu=50)
        assert served == served[:3] * 4
