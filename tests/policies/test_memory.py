"""What a policy keeps of back-ends."""

from __future__ import annotations

import gc
from random import Random
from weakref import WeakSet

import pytest

from rproxy.policies.drawing import Drawing
from rproxy.policies.ranked import Ranked
from rproxy.policies.registry import POLICIES
from rproxy.policies.two_choices import CHOICES_MAX
from rproxy.pool.backend import Backend
from tests.policies.balancing import Balance, balance_by, policy
from tests.pool.driving import agent

pytestmark = pytest.mark.no_cover


class TestMemory:
    """A policy keeps no more back-ends than the pool has, and a few."""

    def test_backends_that_come_and_go_are_not_kept(self, balance: Balance) -> None:
        balance.all_up(2)
        gone: WeakSet[Backend] = WeakSet()
        for instance in range(500):
            passing = balance.up(agent(7), instance=instance)
            gone.add(passing)
            balance.open()
            balance.unregister(agent(7), instance=instance)
            balance.close(balance.open())
        del passing
        gc.collect()
        assert len(gone) < 100

    def test_backends_that_fail_after_they_went_are_not_kept(self, balance: Balance) -> None:
        balance.all_up(2)
        gone: WeakSet[Backend] = WeakSet()
        for instance in range(500):
            passing = balance.up(agent(7), instance=instance)
            gone.add(passing)
            balance.unregister(agent(7), instance=instance)
            balance.serve(2, held=False)
            balance.policy.failed(passing, balance.now)
            balance.policy.closed(passing, balance.now, None)
        del passing
        gc.collect()
        assert len(gone) < 100

    def test_backends_that_never_answer_are_not_kept(self, balance: Balance) -> None:
        """Any host can register as many of these as the pool admits."""
        balance.all_up(2)
        gone: WeakSet[Backend] = WeakSet()
        for number in range(100, 600):
            stranger = balance.register(agent(number))
            gone.add(stranger)
            balance.lose(balance.probe(stranger))
            balance.check(stranger)
            balance.serve(2, held=False)
        del stranger
        gc.collect()
        assert len(gone) < 100

    def test_while_nobody_comes_to_choose_they_are_not_kept_either(self, balance: Balance) -> None:
        """At a standby proxy without clients, agents come and go, and those that stay report their load."""
        stay = balance.all_up(2)
        gone: WeakSet[Backend] = WeakSet()
        for instance in range(500):
            passing = balance.up(agent(7), instance=instance)
            gone.add(passing)
            balance.unregister(agent(7), instance=instance)
            balance.policy.reported(passing, balance.now)
            for backend in stay:
                balance.report(backend, tcp=instance % 7)
        del passing
        gc.collect()
        assert len(gone) < 100
        if isinstance(balance.policy, Ranked):
            assert len(balance.policy._places) == 2
            assert len(balance.policy._heap) < 200
        else:
            assert isinstance(balance.policy, Drawing)
            assert len(balance.policy._records) == 2
            assert len(balance.policy._at) < 200
        assert {balance.open() for _ in range(20)} == set(stay)

    @pytest.mark.parametrize("name", [name for name in POLICIES if isinstance(policy(name), Ranked)])
    def test_an_order_that_was_made_small_is_one_still(self, name: str) -> None:
        """Dead entries were between those that stay."""
        balance = balance_by(name)
        backends = balance.all_up(200)
        ranked = balance.policy
        assert isinstance(ranked, Ranked)
        rng = Random(4)
        for _ in range(20):
            for backend in rng.sample(backends, 150):
                balance.report(backend, cpu=rng.randrange(70), tcp=rng.randrange(20))
            ranked._compact()
            left: list[Backend] = []
            while (chosen := balance.choose(*left)) is not None:
                left.append(chosen)
            ranks = [ranked.rank(backend) for backend in left]
            assert ranks == sorted(ranks)
            assert len(left) == 200

    def test_what_is_kept_stays_small_under_churn(self, balance: Balance) -> None:
        backends = balance.all_up(20)
        kept = balance.policy
        assert isinstance(kept, Ranked | Drawing)
        rng = Random(3)
        held = balance.serve(60, held=True)
        for _ in range(3000):
            held.append(balance.open())
            balance.close(held.pop(rng.randrange(len(held))))
            balance.report(rng.choice(backends), cpu=rng.randrange(70), memory=rng.randrange(70))
            if isinstance(kept, Ranked):
                assert len(kept._heap) <= 2 * len(backends) + 64 + 3
            else:
                assert len(kept._numbers) <= CHOICES_MAX
        assert len(kept._places if isinstance(kept, Ranked) else kept._records) == len(backends)
