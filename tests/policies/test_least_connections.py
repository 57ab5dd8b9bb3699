"""The fewest of our sessions."""

from __future__ import annotations

import pytest

from tests.policies.balancing import Balance, balance_by, shares


class TestLeastConnections:
    @pytest.fixture
    def balance(self) -> Balance:
        return balance_by("least-connections")

    def test_the_one_with_the_fewest_sessions_is_chosen(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        balance.serve(9, held=True)
        balance.close(backends[1])
        assert balance.choose() is backends[1]

    def test_a_session_still_connecting_counts(self, balance: Balance) -> None:
        slow, other = balance.all_up(2)
        for _ in range(5):
            balance.lease(slow)
        assert set(balance.serve(5, held=True)) == {other}

    def test_it_does_not_depend_on_the_load(self, balance: Balance) -> None:
        loaded, idle = balance.all_up(2)
        balance.report(loaded, cpu=100, memory=100, tcp=1000)
        assert shares(balance.serve(10, held=True), [loaded, idle]) == [5, 5]

    def test_equal_ones_take_turns(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        served = balance.serve(9, held=False)
        assert set(served[:3]) == set(backends)
        assert served == served[:3] * 3
