from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from rproxy.net.addresses import Address
from rproxy.policies.affinity import Affinity
from rproxy.policies.balance import bucket_of
from rproxy.policies.ranked import Ranked
from rproxy.policies.registry import POLICIES
from rproxy.policies.shadow import Shadow
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation, Policy
from tests.fakes import UNLIMITED, RaisingPolicy
from tests.policies.balancing import Balance, policy
from tests.policies.test_policies import Machine
from tests.pool.driving import agent

pytestmark = pytest.mark.no_cover


def no_failure() -> None:
    raise AssertionError("the shadow has failed") from None


def beside(acting: Policy, shadow: Policy, complain: Callable[[], None] = no_failure) -> tuple[Shadow, Balance]:
    both = Shadow(acting, shadow, complain)
    return both, Balance(both)


class Always:
    """Chooses the eligible back-end of the lowest or highest address; remembers what it is told."""

    def __init__(self, *, last: bool = False) -> None:
        self.last = last
        self.told: list[tuple[Any, ...]] = []
        self.asked: list[tuple[Address | None, list[str]]] = []

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        self.asked.append((client, [each.name for each in exclude]))
        left = sorted((each for each in eligible if each not in exclude), key=lambda each: each.name)
        return left[-1 if self.last else 0] if left else None

    def opened(self, backend: Backend, now: float) -> None:
        self.told.append(("opened", backend.name))

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        self.told.append(("closed", backend.name, served_s))

    def failed(self, backend: Backend, now: float) -> None:
        self.told.append(("failed", backend.name))

    def reported(self, backend: Backend, now: float) -> str | None:
        self.told.append(("reported", backend.name))
        return "a reason" if self.last else None

    def explain(self, backend: Backend, now: float) -> Explanation:
        return Explanation(2.0 if self.last else 1.0)


def counts(shadow: Shadow) -> dict[str, tuple[int, int]]:
    """Sessions of each back-end under both."""
    return {each.backend.name: (each.acting.sessions, each.shadow.sessions) for each in shadow}


class TestSessions:
    def test_each_session_is_given_to_the_shadows_choice_as_well(self) -> None:
        shadow, balance = beside(Always(), Always(last=True))
        first, last = balance.all_up(2)
        assert balance.serve(3, held=True) == [first] * 3
        assert counts(shadow) == {first.name: (3, 0), last.name: (0, 3)}
        assert (shadow.choices, shadow.differed, shadow.unplaced) == (3, 3, 0)

    def test_one_that_ends_gives_back_the_shadows_oldest_of_that_back_end(self) -> None:
        chooses = Always()
        shadow, balance = beside(Always(), chooses)
        first, last = balance.all_up(2)
        for chooses.last in (True, False, True):
            balance.open()
        chooses.told.clear()
        balance.close(first, served_s=7.0)
        assert chooses.told == [("closed", last.name, 7.0)]
        balance.close(first)
        assert counts(shadow) == {first.name: (1, 0), last.name: (0, 1)}
        balance.close(first)
        assert counts(shadow) == {first.name: (0, 0), last.name: (0, 0)}

    def test_those_that_were_there_before_are_the_shadows_as_well(self) -> None:
        balance = Balance(Always())
        first, last = balance.all_up(2)
        balance.serve(3, held=True)
        shadow = Shadow(Always(), Always(last=True), no_failure)
        balance.pool.replace_policy(shadow, balance.now)
        balance.open()
        assert counts(shadow) == {first.name: (4, 3), last.name: (0, 1)}
        for _ in range(4):
            balance.close(first)
        assert counts(shadow) == {first.name: (0, 0), last.name: (0, 0)}

    def test_full_is_who_is_full_by_the_shadows_sessions(self) -> None:
        shadow, balance = beside(Always(), Always(last=True))
        first, last = balance.all_up(2, max_connections=2)
        assert balance.serve(3, held=True) == [first, first, last]
        assert counts(shadow) == {first.name: (2, 1), last.name: (1, 2)}

    def test_where_the_shadow_has_nobody_the_session_is_not_its_own(self) -> None:
        class Never(Always):
            def choose(self, *args: Any) -> None:
                return None

        shadow, balance = beside(Always(), Never())
        (only,) = balance.all_up(1)
        balance.open()
        balance.close(only)
        assert (shadow.choices, shadow.differed, shadow.unplaced, shadow.failures) == (1, 1, 1, 0)
        assert counts(shadow) == {only.name: (0, 0)}

    def test_client_and_excluded_back_ends_are_the_same_for_both(self) -> None:
        acting, chooses = Always(), Always()
        _, balance = beside(acting, chooses)
        first, _ = balance.all_up(2)
        balance.pool.choose(balance.now, [first], ("192.0.2.1", 7))
        assert acting.asked == chooses.asked == [(("192.0.2.1", 7), [first.name])]

    def test_where_the_acting_one_finds_nobody_the_shadow_is_asked_and_nothing_counts(self) -> None:
        chooses = Always()
        shadow, balance = beside(Always(), chooses)
        first, last = balance.all_up(2)
        balance.pool.choose(balance.now, [first, last], ("192.0.2.1", 7))
        assert chooses.asked == [(("192.0.2.1", 7), [first.name, last.name])]
        assert (shadow.choices, shadow.differed, shadow.unplaced, shadow.failures) == (0, 0, 0, 0)

    def test_asking_without_a_session_is_none_of_the_shadows_business(self) -> None:
        chooses = Always()
        shadow, balance = beside(Always(), chooses)
        balance.all_up(2)
        balance.choose()
        assert (chooses.asked, shadow.choices) == ([], 0)

    def test_a_failure_is_one_of_the_same_back_end(self) -> None:
        chooses = Always()
        _, balance = beside(Always(), chooses)
        first, last = balance.all_up(2)
        chooses.told.clear()
        balance.refuse(first)
        assert chooses.told == [("opened", first.name), ("failed", first.name), ("closed", first.name, None)]
        balance.down(last)
        assert ("failed", last.name) in chooses.told
        assert balance.open() is first

    def test_one_that_is_forgotten_is_compared_no_more(self) -> None:
        shadow, balance = beside(Always(), Always(last=True))
        first, last = balance.all_up(2)
        balance.serve(2, held=True)
        balance.unregister((last.address, 5555))
        assert counts(shadow) == {first.name: (2, 0)}
        balance.close(first)
        balance.close(first)
        assert counts(shadow) == {first.name: (0, 0)}
        assert shadow.shadow_balance.sessions.count == 1

    def test_what_differs_is_counted_for_the_last_minute_as_well(self) -> None:
        chooses = Always(last=True)
        shadow, balance = beside(Always(), chooses)
        balance.all_up(2)
        balance.serve(2, held=False)
        balance.now += 100.0
        chooses.last = False
        balance.serve(3, held=False)
        bucket = bucket_of(balance.now)
        assert (shadow.recent_choices.total(bucket), shadow.recent_differed.total(bucket)) == (3, 0)
        assert (shadow.choices, shadow.differed) == (5, 2)


class TestNoEffect:
    def test_the_acting_policy_alone_explains_and_passes_over(self) -> None:
        shadow, balance = beside(Always(), Always(last=True))
        (backend,) = balance.all_up(1)
        assert (shadow.explain(backend, balance.now).value, backend.passed_over) == (1.0, "")

    @pytest.mark.parametrize("method", ["choose", "opened", "closed", "failed", "reported"])
    def test_what_the_shadow_raises_is_counted_and_complained_of(self, method: str) -> None:
        complaints: list[None] = []
        shadow, balance = beside(Always(), RaisingPolicy(method), lambda: complaints.append(None))
        first, _ = balance.all_up(2)
        assert balance.serve(3, held=False) == [first] * 3
        balance.refuse(first)
        balance.close(balance.open())
        assert shadow.failures == len(complaints) > 0
        assert first.connections == 0

    def test_what_it_chooses_wrongly_is_a_failure(self) -> None:
        class Wrong(Always):
            def choose(self, eligible: Sequence[Backend], *args: Any) -> Backend:
                return backends[0]

        failures: list[None] = []
        shadow, balance = beside(Always(), Wrong(), lambda: failures.append(None))
        backends = balance.all_up(2)
        balance.open()
        assert (len(failures), shadow.failures, shadow.unplaced) == (1, 1, 0)

    def test_what_the_acting_one_raises_is_the_pools_to_handle(self) -> None:
        shadow, balance = beside(RaisingPolicy("opened", "closed", "failed", "reported"), Always(last=True))
        first, last = balance.all_up(2)
        backend = balance.open()
        assert sum(sessions for _, sessions in counts(shadow).values()) == 1
        balance.close(backend)
        assert counts(shadow) == {first.name: (0, 0), last.name: (0, 0)}

    @pytest.mark.parametrize("name", POLICIES)
    def test_every_policy_chooses_as_it_does_alone(self, name: str) -> None:
        for number, other in enumerate(POLICIES):
            alone = script(Balance(policy(name)), Random(number))
            accompanied = Balance(Shadow(policy(name), policy(other), no_failure))
            assert script(accompanied, Random(number)) == alone


def script(balance: Balance, rng: Random) -> list[str | None]:
    """Agents, sessions and failures in an order that depends on `rng` alone; the choices that were made."""
    backends = [balance.up(agent(number), weight=rng.choice([50, 100, 200])) for number in range(5)]
    held: list[Backend] = []
    chosen: list[str | None] = []
    for _ in range(150):
        balance.now += rng.uniform(0, 0.5)
        backend = rng.choice(backends)
        match rng.randrange(8):
            case 0:
                balance.report(backend, cpu=rng.randrange(100), tcp=rng.randrange(9), others=rng.randrange(3))
            case 1 if held:
                balance.close(held.pop(rng.randrange(len(held))), served_s=rng.uniform(0, 9))
            case 2 if backend.usable:
                balance.refuse(backend)
            case _:
                found = balance.pool.choose(balance.now, rng.sample(backends, rng.randrange(3)))
                chosen.append(None if found is None else found.name)
                if found is not None:
                    balance.pool.connected(found)
                    held.append(found)
    return chosen


class Accompanied(Machine):
    """Any sequence of events, with the same policy in the shadow."""

    affine = False

    def __init__(self) -> None:
        super().__init__()
        first, second = policy(self.policy_name), policy(self.policy_name)
        pair = (Affinity(first), Affinity(second)) if self.affine else (first, second)
        self.both = Shadow(*pair, no_failure)
        self.ranked = isinstance(first, Ranked)
        self.policy = self.both
        self.balance = Balance(self.both, limits=attrs.evolve(UNLIMITED, confirmed=8), slow_start_s=0, panic_below=0)

    @invariant()
    def they_agree(self) -> None:
        """Policies that draw do so at each choice that is asked for, and the shadow's only at those that are made."""
        both, pool = self.both, self.balance.pool
        assert both.failures == 0
        assert sum(len(each.sessions) for each in both) <= len(self.held)
        if self.ranked:
            assert both.differed == 0
            assert all(each.backend.connections == each.mirror.connections for each in both)
        if self.balance.choose() is not None:
            backend = self.balance.open()
            mirror = next(each.sessions[-1] for each in both if each.backend is backend)
            assert mirror is None or next(each.backend.usable for each in both if each.mirror is mirror)
            self.balance.close(backend)
            assert both._eligible == len(pool.eligible)
            assert {each.backend for each in both if each.mirror.usable} >= {each for each in pool if each.usable}
            assert not self.ranked or mirror is not None


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_the_same_policy_in_the_shadow_does_the_same_whatever_happens(name: str, affine: bool) -> None:
    machine = type("Accompanied", (Accompanied,), {"policy_name": name, "affine": affine})
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=30, deadline=None))


class TestLeaks:
    def test_nothing_is_left_of_sessions_and_back_ends_that_are_gone(self) -> None:
        shadow, balance = beside(policy("least-connections"), policy("random", seed=3))
        for number in range(30):
            backends = balance.all_up(4, instance=number)
            held = balance.serve(20, held=True)
            for backend in held[:10]:
                balance.close(backend)
            for backend in backends:
                balance.unregister((backend.address, 5555), instance=number)
            for backend in held[10:]:
                balance.close(backend)
            balance.now += 1000.0 + number
        assert list(shadow) == []
        assert (len(shadow._mirrors), shadow._by_mirror, shadow._mirrors.eligible) == (0, {}, [])
        assert shadow.shadow_balance.sessions.count == shadow.acting_balance.sessions.count == 0
