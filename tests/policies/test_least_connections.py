"""The fewest of our sessions."""

from __future__ import annotations

import pytest

from tests.policies.balancing import Balance, balance_by, shares
from tests.pool.driving import agent


class TestLeastConnections:
    @pytest.fixture
    def balance(self) -> Balance:
        return balance_by("least-connections")

    def test_it_does_not_depend_on_the_load(self, balance: Balance) -> None:
        loaded, idle = balance.all_up(2)
        balance.report(loaded, cpu=100, memory=100, tcp=1000)
        assert shares(balance.serve(10, held=True), [loaded, idle]) == [5, 5]

    def test_equal_ones_take_turns(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        served = balance.serve(9, held=False)
        assert set(served[:3]) == set(backends)
        assert served == served[:3] * 3

    def test_one_of_small_weight_is_not_chosen_for_being_idle(self, balance: Balance) -> None:
        *_, light = [balance.up(agent(number), weight=weight) for number, weight in enumerate((100, 100, 5))]
        assert light in balance.serve(3, held=True)
        balance.close(light)
        assert light not in balance.serve(10, held=True)
        assert shares(balance.serve(110, held=True), [light]) == [pytest.approx(3, abs=1)]

    def test_its_value_is_that_of_a_weight_of_100_and_its_turn(self, balance: Balance) -> None:
        heavy, light = balance.up(agent(1), weight=200), balance.up(agent(2), weight=100)
        balance.serve(300, held=False)
        values = sorted(balance.pool.explain(backend, balance.now).value for backend in (heavy, light))
        assert 0 <= values[0] <= values[1] <= 1
        balance.opened(light, 3)
        assert balance.pool.explain(light, balance.now).value == pytest.approx(3, abs=1)
        assert balance.pool.explain(light, balance.now).terms == {"sessions": 3, "weight": 100}

    def test_weights_that_become_equal_leave_the_fewest_sessions_to_decide(self, balance: Balance) -> None:
        first, second = balance.up(agent(1), weight=200), balance.up(agent(2), weight=100)
        balance.serve(30, held=True)
        balance.register((first.address, 5555), weight=100)
        assert set(balance.serve(9, held=True)) == {second}

    def test_a_weight_that_rises_does_not_wait_for_its_old_turn(self, balance: Balance) -> None:
        light, *_ = backends = [balance.up(agent(number), weight=weight) for number, weight in enumerate((1, 100, 100))]
        balance.serve(300, held=False)
        balance.register((light.address, 5555), weight=100)
        assert shares(balance.serve(300, held=False), backends) == pytest.approx([100, 100, 100], abs=2)
