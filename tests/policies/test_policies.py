"""One contract for every registered policy, and what is peculiar to each."""

from __future__ import annotations

import gc
from collections import Counter
from itertools import count, pairwise
from random import Random
from typing import Any, ClassVar, Final
from weakref import WeakSet

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rproxy.policies.formula import score
from rproxy.policies.ranked import Ranked
from rproxy.policies.registry import POLICIES
from rproxy.policies.report import RTT_NOISE_MS, SCORE_RESOLUTION
from rproxy.pool.backend import Backend
from rproxy.pool.health import SLOW_START_S
from rproxy.pool.states import State
from rproxy.wire.pdu import COUNT_MAX, WEIGHT_MAX
from tests.fakes import UNLIMITED
from tests.policies.balancing import Balance, policy, shares
from tests.pool.driving import agent


@pytest.fixture(params=sorted(POLICIES))
def balance(request: pytest.FixtureRequest) -> Balance:
    return Balance(policy(request.param))


def balance_by(name: str, **options: Any) -> Balance:
    return Balance(policy(name, **options))


ABSENCES: Final = ("down", "draining", "failed")
"""How a back-end may get no client for a while; its next report ends each of them."""


def leave(balance: Balance, backend: Backend, way: str) -> None:
    match way:
        case "down":
            balance.down(backend)
        case "draining":
            balance.report(backend, draining=True)
        case _:
            balance.refuse(backend)


def come_back(balance: Balance, backend: Backend, way: str) -> None:
    if way == "down":
        balance.recover(backend)
    else:
        balance.report(backend)


def score_now(backend: Backend) -> float:
    return score(
        rtt_ms=backend.rtt.last_ms or 0.0,
        tcp=backend.tcp,
        loss=backend.losses.rate,
        cpu=backend.cpu,
        memory=backend.memory,
    )


class TestContract:
    def test_an_empty_table_has_nobody_to_choose(self, balance: Balance) -> None:
        assert balance.choose() is None

    def test_a_backend_that_never_answered_is_not_chosen(self, balance: Balance) -> None:
        balance.register()
        assert balance.choose() is None

    @pytest.mark.parametrize("way", ["down", "draining", "unregistered", "silent"])
    def test_one_that_goes_is_chosen_no_more(self, balance: Balance, way: str) -> None:
        gone, stays = balance.all_up(2)
        balance.serve(4, held=True)
        match way:
            case "down":
                balance.down(gone)
            case "draining":
                balance.report(gone, draining=True)
            case "unregistered":
                balance.unregister((gone.address, 5555))
            case _:
                balance.check(gone, liveness_s=0)
        assert set(balance.serve(20, held=True)) == {stays}

    def test_the_last_one_gone_leaves_nobody(self, balance: Balance) -> None:
        for backend in balance.all_up(3):
            assert balance.choose() is not None
            balance.down(backend)
        assert balance.choose() is None

    def test_an_excluded_one_is_not_chosen(self, balance: Balance) -> None:
        backends = balance.all_up(5)
        rng = Random(2)
        for _ in range(200):
            exclude = rng.sample(backends, rng.randrange(5))
            assert balance.open(*exclude) not in exclude

    def test_with_all_excluded_there_is_nobody(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        assert balance.choose(*backends) is None
        assert balance.choose() in backends

    def test_choosing_alone_changes_nothing(self, balance: Balance) -> None:
        """What a second call says does not depend on the first, nor on whom a call in between excluded."""
        balance.all_up(5)
        for _ in range(50):
            first = balance.choose()
            assert first is not None
            assert balance.choose(first) is balance.choose(first) is not first
            assert balance.open() is first

    def test_in_the_end_everybody_is_chosen(self, balance: Balance) -> None:
        backends = balance.all_up(5)
        for number, backend in enumerate(backends):
            balance.report(backend, cpu=10 * number, memory=5 * number, tcp=number)
        assert set(balance.serve(200, held=True)) == set(backends)

    @pytest.mark.parametrize("held", [True, False])
    def test_equal_ones_get_equal_shares(self, balance: Balance, held: bool) -> None:
        backends = balance.all_up(5)
        assert shares(balance.serve(2000, held=held), backends) == pytest.approx([400] * 5, rel=0.15)

    def test_a_share_follows_the_weight(self, balance: Balance) -> None:
        heavy, normal = balance.up(agent(1), weight=300), balance.up(agent(2), weight=100)
        of_heavy, of_normal = shares(balance.serve(2000, held=True), [heavy, normal])
        assert of_heavy / of_normal == pytest.approx(3, rel=0.15)

    def test_a_weight_that_changes_counts_from_then_on(self, balance: Balance) -> None:
        grown, normal = balance.all_up(2)
        for backend in balance.serve(20, held=True):
            balance.close(backend)
        balance.register((grown.address, 5555), weight=300)
        of_grown, of_normal = shares(balance.serve(2000, held=True), [grown, normal])
        assert of_grown / of_normal == pytest.approx(3, rel=0.15)

    @pytest.mark.parametrize("name", sorted(POLICIES))
    def test_one_that_starts_slowly_gets_its_share_and_in_the_end_the_whole(self, name: str) -> None:
        balance = Balance(policy(name), limits=UNLIMITED)
        settled = balance.up(agent(1))
        balance.now += SLOW_START_S
        balance.pool.tick(balance.now)
        starting = balance.up(agent(2))
        assert starting.share == 0.1
        ratios = []
        for _ in range(2):
            served = balance.serve(1100, held=True)
            of_settled, of_starting = shares(served, [settled, starting])
            ratios.append(of_starting / of_settled)
            for backend in served:
                balance.close(backend)
            balance.now += SLOW_START_S
            balance.pool.tick(balance.now)
        assert ratios == [pytest.approx(0.1, rel=0.2), pytest.approx(1, rel=0.2)]

    @pytest.mark.parametrize("weight", [1, WEIGHT_MAX])
    def test_extreme_weights_and_loads_leave_a_choice(self, balance: Balance, weight: int) -> None:
        backend = balance.up(weight=weight)
        balance.report(backend, cpu=100, memory=100, load=100, tcp=COUNT_MAX)
        assert set(balance.serve(100, held=True)) == {backend}

    @pytest.mark.parametrize("way", ABSENCES)
    def test_one_that_comes_back_is_chosen_again(self, balance: Balance, way: str) -> None:
        returns, _ = balance.all_up(2)
        balance.serve(10, held=True)
        leave(balance, returns, way)
        balance.serve(10, held=True)
        come_back(balance, returns, way)
        assert returns in balance.serve(40, held=True)

    def test_a_newcomer_is_chosen(self, balance: Balance) -> None:
        balance.all_up(3)
        balance.serve(100, held=True)
        newcomer = balance.up(agent(3))
        assert newcomer in balance.serve(40, held=True)

    def test_one_that_failed_comes_last(self, balance: Balance) -> None:
        failed, *others = balance.all_up(3)
        balance.refuse(failed)
        assert set(balance.serve(100, held=True)) == set(others)
        assert balance.choose(*others) is failed

    def test_one_that_failed_is_better_than_nobody(self, balance: Balance) -> None:
        backends = balance.all_up(2)
        for backend in backends:
            balance.refuse(backend)
        assert set(balance.serve(40, held=True)) == set(backends)

    def test_one_that_missed_a_probe_comes_last_until_it_answers_one(self, balance: Balance) -> None:
        missing, other = balance.all_up(2)
        balance.lose(balance.probe(missing))
        assert set(balance.serve(40, held=True)) == {other}
        for _ in range(100):
            balance.report(missing)
        assert missing in balance.serve(60, held=True)

    def test_sessions_that_outlive_their_backend_do_no_harm(self, balance: Balance) -> None:
        gone, stays = balance.all_up(2)
        served = balance.serve(10, held=True)
        balance.unregister((gone.address, 5555))
        for backend in served:
            balance.close(backend)
        assert set(balance.serve(10, held=True)) == {stays}


class TestMemory:
    """A policy holds on to what the table holds, and little more."""

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
            balance.policy.failed(passing)
            balance.policy.closed(passing)
        del passing
        gc.collect()
        assert len(gone) < 100

    def test_backends_that_never_answer_are_not_kept(self, balance: Balance) -> None:
        """Anybody can register as many of these as the table lets in."""
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
        """At a proxy in reserve, agents come and go, and those that stay tell their load."""
        stay = balance.all_up(2)
        gone: WeakSet[Backend] = WeakSet()
        for instance in range(500):
            passing = balance.up(agent(7), instance=instance)
            gone.add(passing)
            balance.unregister(agent(7), instance=instance)
            balance.policy.reported(passing)
            for backend in stay:
                balance.report(backend, tcp=instance % 7)
        del passing
        gc.collect()
        assert len(gone) < 100
        ranked = balance.policy
        assert isinstance(ranked, Ranked)
        assert len(ranked._places) == 2
        assert len(ranked._heap) < 200
        assert {balance.open() for _ in range(20)} == set(stay)

    def test_an_order_that_was_made_small_is_one_still(self, balance: Balance) -> None:
        """What has been left behind stood between what stays."""
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

    def test_the_order_stays_small_under_churn(self, balance: Balance) -> None:
        backends = balance.all_up(20)
        ranked = balance.policy
        assert isinstance(ranked, Ranked)
        rng = Random(3)
        held = balance.serve(60, held=True)
        for _ in range(3000):
            held.append(balance.open())
            balance.close(held.pop(rng.randrange(len(held))))
            balance.report(rng.choice(backends), cpu=rng.randrange(70), memory=rng.randrange(70))
            assert len(ranked._heap) <= 2 * len(backends) + 64 + 3
        assert len(ranked._places) == len(backends)


class PolicyMachine(RuleBasedStateMachine):
    """Any sequence of events leaves the choice where a search of the whole table finds the lowest rank."""

    policy_name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        ranked = policy(self.policy_name)
        assert isinstance(ranked, Ranked)
        self.ranked = ranked
        self.balance = Balance(ranked, limits=evolve(UNLIMITED, confirmed=8), slow_start_s=0, panic_below=0)
        self.instances = count()
        self.failed: set[Backend] = set()
        self.held: list[Backend] = []

    def backend(self, data: st.DataObject) -> Backend:
        return data.draw(st.sampled_from(self.present))

    @property
    def present(self) -> list[Backend]:
        return [backend for backend in self.balance.pool if backend.state is not State.DEPARTED]

    @precondition(lambda self: len(self.present) < 8)
    @rule(number=st.integers(0, 7), weight=st.sampled_from([1, 50, 100, 300]))
    def arrive(self, number: int, weight: int) -> None:
        there = self.balance.pool.get(agent(number)[0], 80)
        if there is None or there.state is State.DEPARTED:
            if there is not None:
                self.failed.discard(there)
            self.balance.up(agent(number), weight=weight, instance=next(self.instances))

    @precondition(lambda self: bool(self.present))
    @rule(
        data=st.data(),
        percent=st.none() | st.integers(0, 100),
        tcp=st.none() | st.integers(0, 20),
        draining=st.sampled_from([False, False, False, True]),
    )
    def report(self, data: st.DataObject, percent: int | None, tcp: int | None, draining: bool) -> None:
        backend = self.backend(data)
        self.balance.report(backend, cpu=percent, tcp=tcp, draining=draining)
        self.failed.discard(backend)

    @precondition(lambda self: bool(self.present))
    @rule(data=st.data())
    def miss(self, data: st.DataObject) -> None:
        backend = self.backend(data)
        self.balance.lose(self.balance.probe(backend))
        self.failed.add(backend)

    @precondition(lambda self: bool(self.present))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        backend = self.backend(data)
        self.balance.unregister((backend.address, 5555), instance=backend.registration.instance)

    @precondition(lambda self: self.balance.choose() is not None)
    @rule(sessions=st.integers(1, 10))
    def open(self, sessions: int) -> None:
        self.held += self.balance.serve(sessions, held=True)

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.balance.close(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @precondition(lambda self: bool(self.balance.pool.eligible))
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(self.balance.pool.eligible))
        self.balance.refuse(backend)
        self.failed.add(backend)

    def lowest(self, *exclude: Backend) -> tuple[float, ...] | None:
        left = [backend for backend in self.balance.pool if backend.eligible and backend not in exclude]
        return min(map(self.key, left), default=None)

    def key(self, backend: Backend) -> tuple[float, ...]:
        return (backend in self.failed, *self.ranked.rank(backend))

    @invariant()
    def the_choice_has_the_lowest_rank(self) -> None:
        best = self.balance.choose()
        assert (None if best is None else self.key(best)) == self.lowest()
        if best is not None:
            second = self.balance.choose(best)
            assert (None if second is None else self.key(second)) == self.lowest(best)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_any_churn_leaves_the_choice_at_the_lowest_rank(name: str) -> None:
    machine = type("PolicyMachine", (PolicyMachine,), {"policy_name": name})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=50, deadline=None))


class TestReport:
    @pytest.fixture
    def balance(self) -> Balance:
        return balance_by("report")

    def test_every_session_goes_to_the_lowest_score_of_that_instant(self, balance: Balance) -> None:
        """The score as the formula has it, with every session opened and closed since the report."""
        rng = Random(4)
        backends = balance.all_up(6)
        held: list[Backend] = []
        for step in range(600):
            if step % 10 == 0:
                balance.report(
                    rng.choice(backends),
                    after_s=rng.uniform(RTT_NOISE_MS / 1000, 0.02),
                    cpu=rng.randrange(70),
                    memory=rng.randrange(70),
                    tcp=rng.randrange(40),
                )
            lowest = min(map(score_now, backends))
            chosen = balance.choose()
            assert chosen is not None
            assert score_now(chosen) <= lowest + SCORE_RESOLUTION
            held.append(balance.open())
            if rng.random() < 0.7:
                balance.close(held.pop(rng.randrange(len(held))))

    def test_a_better_score_is_used_up_by_its_own_sessions(self, balance: Balance) -> None:
        """Nine sessions more are worth what 54 % of CPU are."""
        idle, busy = balance.all_up(2)
        balance.report(busy, cpu=54)
        assert set(balance.serve(9, held=True)) == {idle}
        assert busy in balance.serve(2, held=True)

    def test_sessions_that_end_make_it_better_again(self, balance: Balance) -> None:
        idle, busy = balance.all_up(2)
        balance.report(busy, cpu=30)
        for backend in balance.serve(9, held=True):
            balance.close(backend)
        assert set(balance.serve(4, held=True)) == {idle}

    def test_a_session_still_connecting_counts(self, balance: Balance) -> None:
        slow, other = balance.all_up(2)
        for backend in (slow, other):
            balance.report(backend, tcp=0)
        for _ in range(5):
            balance.lease(slow)
        assert set(balance.serve(5, held=True)) == {other}

    def test_altered_to_report_full_load_it_gets_no_session(self, balance: Balance) -> None:
        """The report's test 2b."""
        first, second = balance.all_up(2)
        balance.report(second, cpu=100, memory=100, tcp=100)
        assert set(balance.serve(10, held=False)) == {first}

    def test_a_saturated_one_waits_however_much_the_others_hold(self, balance: Balance) -> None:
        saturated, other = balance.all_up(2)
        balance.report(saturated, cpu=70)
        balance.report(other, cpu=69, memory=69, tcp=5000)
        assert set(balance.serve(500, held=True)) == {other}
        assert balance.choose(other) is saturated

    def test_a_saturated_one_waits_even_for_the_largest_sum(self, balance: Balance) -> None:
        saturated, other = balance.up(agent(1), weight=WEIGHT_MAX), balance.up(agent(2), weight=1)
        balance.report(saturated, cpu=70)
        balance.report(other, cpu=69, memory=69, tcp=COUNT_MAX)
        assert balance.choose() is other

    def test_without_saturation_the_sum_alone_decides(self) -> None:
        balance = balance_by("report", saturation=None)
        full_cpu, many_connections = balance.all_up(2)
        balance.report(full_cpu, cpu=100)
        balance.report(many_connections, tcp=50)
        assert balance.choose() is full_cpu

    def test_saturated_ones_are_told_apart_by_the_sum(self, balance: Balance) -> None:
        worse, better = balance.all_up(2)
        balance.report(worse, cpu=100, memory=100)
        balance.report(better, cpu=90, memory=20)
        assert set(balance.serve(5, held=True)) == {better}

    def test_saturated_equals_share_evenly(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        for backend in backends:
            balance.report(backend, cpu=90, memory=90)
        assert shares(balance.serve(30, held=True), backends) == [10, 10, 10]

    def test_of_equal_scores_the_fewest_own_sessions_win(self, balance: Balance) -> None:
        """The other host holds as many connections, of others; that it had a client last does not matter."""
        ours, others = balance.all_up(2)
        for _ in range(3):
            balance.open(others)
        balance.close(balance.open(ours))
        balance.report(ours, tcp=3)
        balance.report(others, tcp=3)
        assert ours.tcp == others.tcp
        assert balance.choose() is others

    def test_round_trips_of_a_lan_are_equal(self, balance: Balance) -> None:
        """Such as 0.997 and 1.083 ms, between which a step of the score lies."""
        backends = balance.all_up(3)
        for backend, rtt_s in zip(backends, (0.000997, 0.001083, 0.0019), strict=True):
            balance.report(backend, after_s=rtt_s)
        assert shares(balance.serve(30, held=False), backends) == [10, 10, 10]

    def test_a_round_trip_beyond_a_lans_noise_decides(self, balance: Balance) -> None:
        near, far = balance.all_up(2)
        balance.report(near, after_s=0.0019)
        balance.report(far, after_s=0.0031)
        assert set(balance.serve(10, held=False)) == {near}

    def test_scores_in_one_step_of_the_resolution_take_turns(self, balance: Balance) -> None:
        """A LAN's round trips differ by less; else one host would get everything until its next report."""
        backends = balance.all_up(3)
        for backend, rtt_ms in zip(backends, [0.05, 0.2, 0.3], strict=True):
            balance.report(backend, after_s=rtt_ms / 1000, cpu=20, memory=40)
        assert len(set(map(score_now, backends))) == 3
        assert shares(balance.serve(30, held=False), backends) == [10, 10, 10]

    def test_equal_scores_take_turns_whatever_they_are_made_of(self, balance: Balance) -> None:
        """0.60 in every way that connections, CPU and memory can make it."""
        loads = [(tcp, cpu, 120 - 6 * tcp - cpu) for tcp in range(21) for cpu in range(0, 121 - 6 * tcp, 5)]
        loads = [(tcp, cpu, memory) for tcp, cpu, memory in loads if max(cpu, memory) < 70]
        backends = balance.all_up(len(loads))
        for backend, (tcp, cpu, memory) in zip(backends, loads, strict=True):
            balance.report(backend, after_s=0, tcp=tcp, cpu=cpu, memory=memory)
        assert shares(balance.serve(len(loads), held=False), backends) == [1] * len(loads)

    def test_a_score_lower_by_two_steps_gets_every_session_that_ends_at_once(self, balance: Balance) -> None:
        better, worse = balance.all_up(2)
        balance.report(better, cpu=20)
        balance.report(worse, cpu=24)
        assert score_now(worse) - score_now(better) == pytest.approx(2 * SCORE_RESOLUTION)
        assert set(balance.serve(30, held=False)) == {better}

    def test_a_weight_divides_the_score(self, balance: Balance) -> None:
        """Double the weight bears double the load."""
        strong, normal = balance.up(agent(1), weight=200), balance.up(agent(2), weight=100)
        balance.report(strong, cpu=60)
        balance.report(normal, cpu=32)
        assert balance.choose() is strong
        balance.report(normal, cpu=24)
        assert balance.choose() is normal

    def test_loss_is_part_of_the_score(self, balance: Balance) -> None:
        lossy, clean = balance.all_up(2)
        balance.lose(balance.probe(lossy))
        balance.report(lossy)
        balance.report(clean, cpu=69, memory=69)
        assert lossy.state is State.UP
        assert balance.choose() is clean


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


class TestUnknown:
    """What an agent cannot tell is no reason to get all clients, nor to get none."""

    @pytest.fixture
    def balance(self) -> Balance:
        return balance_by("report")

    def blind_and_busy(self, balance: Balance, **figures: int) -> tuple[Backend, list[Backend]]:
        blind, *others = balance.all_up(4)
        for backend in others:
            balance.report(backend, **figures)
        balance.report(blind, cpu=None, memory=None, tcp=None)
        return blind, others

    @pytest.mark.parametrize(
        "figures",
        [
            {"cpu": 0, "memory": 0, "tcp": 0},
            {"cpu": 50, "memory": 50, "tcp": 200},
            {"cpu": 80, "memory": 20, "tcp": 10},
            {"cpu": 100, "memory": 100, "tcp": 5000},
        ],
    )
    def test_one_that_can_tell_nothing_gets_no_more_than_its_share_and_some(
        self, balance: Balance, figures: dict[str, int]
    ) -> None:
        blind, _ = self.blind_and_busy(balance, **figures)
        served = balance.serve(100, held=True)
        assert 10 <= served.count(blind) <= 28

    def test_what_the_others_report_later_counts_at_once(self, balance: Balance) -> None:
        """It was the first that came up, when nobody's figures were known."""
        blind = balance.up(agent(9))
        balance.report(blind, cpu=None, memory=None, tcp=None)
        others = [balance.up(agent(number)) for number in range(3)]
        for backend in others:
            balance.report(backend, cpu=80, memory=10, tcp=300)
        assert balance.serve(40, held=True).count(blind) <= 20

    @pytest.mark.parametrize("figure", ["cpu", "memory", "tcp"])
    def test_one_figure_that_is_unknown_leaves_the_others_what_they_are(self, balance: Balance, figure: str) -> None:
        idle, blind = balance.all_up(2)
        balance.report(idle, cpu=10, memory=10, tcp=10)
        known: dict[str, Any] = {"cpu": 10, "memory": 10, "tcp": 10, figure: None}
        balance.report(blind, **known)
        served = balance.serve(100, held=True)
        assert 30 <= served.count(blind) <= 50
        balance.report(blind, **{**known, **{other: 90 for other in ("cpu", "memory") if other != figure}})
        assert blind not in balance.serve(20, held=False)

    def test_the_score_shown_is_that_of_what_it_is_taken_for(self, balance: Balance) -> None:
        blind, (other, *_) = self.blind_and_busy(balance, cpu=60, memory=60, tcp=100)
        assert score_now(blind) == pytest.approx(score_now(other), abs=0.01)
