"""One contract for every registered policy."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count, product
from math import isfinite
from random import Random
from typing import ClassVar, Final

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rproxy.policies.drawing import Drawing
from rproxy.policies.penalty import PENALTY_S, is_penalised
from rproxy.policies.ranked import Ranked
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend
from rproxy.pool.health import SLOW_START_S
from rproxy.pool.states import State
from rproxy.wire.pdu import COUNT_MAX, WEIGHT_MAX
from tests.fakes import UNLIMITED
from tests.policies.balancing import ABSENCES, Balance, balance_by, come_back, leave, policy, shares
from tests.pool.driving import agent

pytestmark = pytest.mark.no_cover


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

    def test_an_operators_weight_counts_in_place_of_its_own(self, balance: Balance) -> None:
        weighed, normal = balance.all_up(2)
        for weight, ratio in ((300, 3), (None, 1)):
            balance.pool.overrides.weigh((weighed.address, weighed.port), weight, balance.now)
            served = balance.serve(2000, held=True)
            of_weighed, of_normal = shares(served, [weighed, normal])
            assert of_weighed / of_normal == pytest.approx(ratio, rel=0.15)
            for backend in served:
                balance.close(backend)

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

    def test_one_that_is_full_is_not_chosen_until_a_session_ends(self, balance: Balance) -> None:
        backends = balance.all_up(3, max_connections=4)
        assert shares(balance.serve(12, held=True), backends) == [4, 4, 4]
        assert balance.choose() is None
        for backend in backends:
            balance.close(backend)
            assert balance.open() is backend
        assert balance.choose() is None

    def test_while_one_is_full_the_others_get_its_share(self, balance: Balance) -> None:
        small, *others = [balance.up(agent(1), max_connections=2), balance.up(agent(2)), balance.up(agent(3))]
        of_small, *of_others = shares(balance.serve(602, held=True), [small, *others])
        assert of_small == 2
        assert of_others == pytest.approx([300, 300], rel=0.15)

    def test_reports_and_failures_of_a_full_one_do_no_harm(self, balance: Balance) -> None:
        full, other = balance.up(agent(1), max_connections=1), balance.up(agent(2))
        balance.lease(full)
        balance.report(full, cpu=50)
        assert set(balance.serve(20, held=True)) == {other}
        balance.pool.refused(full, balance.now)
        balance.pool.closed(full, balance.now, was_connected=False, served_s=None)
        assert balance.choose() is other
        assert balance.choose(other) is full

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

    def test_reports_soon_after_a_failed_connect_do_not_make_up_for_it(self, balance: Balance) -> None:
        failed, *others = balance.all_up(3)
        balance.refuse(failed)
        while balance.now < 1000 + PENALTY_S:
            balance.report(failed, after_s=0.1)
            assert balance.choose() in others
        balance.now += 60
        for backend in (failed, *others):
            balance.report(backend)
        assert failed in balance.serve(100, held=True)

    def test_a_report_after_a_session_that_was_served_does(self, balance: Balance) -> None:
        failed, _ = balance.all_up(2)
        balance.refuse(failed)
        balance.opened(failed)  # one that was chosen before
        balance.report(failed)
        assert failed in balance.serve(40, held=True)
        assert balance.now < 1000 + PENALTY_S

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


SHORT_S: Final = 0.02
"""How long the sessions of these tests are on average, in seconds."""
REPORTS_S: Final = 0.1


def drive(name: str, weights: Sequence[int], clients: int, load: float | None) -> list[float]:
    """The shares of idle hosts with these weights, whose reports differ by noise, in percent.

    Clients come at random and keep the hosts busy for the fraction `load` of the time; None: one at a time.
    """
    rng, balance = Random(7), balance_by(name)
    backends = [balance.up(agent(number), weight=weight) for number, weight in enumerate(weights, 1)]
    ends: list[tuple[float, int, Backend, float]] = []
    served: list[Backend] = []
    comes = reported = balance.now
    while len(served) < clients:
        if load is None:
            comes = ends[0][0] if ends else balance.now
        else:
            comes += rng.expovariate(len(weights) * load / SHORT_S)
        while ends and ends[0][0] <= comes:
            ended, _, backend, lasted_s = heappop(ends)
            balance.now = max(balance.now, ended)
            balance.close(backend, served_s=lasted_s)
        balance.now = max(balance.now, comes)
        if balance.now - reported >= REPORTS_S:
            reported = balance.now
            for backend in backends:
                cpu, memory, rtt_s = rng.randrange(2, 7), rng.randrange(20, 24), rng.uniform(0.0005, 0.0015)
                balance.report(backend, after_s=rtt_s, cpu=cpu, memory=memory, tcp=backend.counts.established)
        served.append(balance.open())
        lasted_s = rng.expovariate(1 / SHORT_S)
        heappush(ends, (balance.now + lasted_s, len(served), served[-1], lasted_s))
    return [100 * each / clients for each in shares(served, backends)]


@pytest.mark.parametrize(("name", "load"), [*product(sorted(POLICIES), (None, 0.02, 0.1, 0.3))])
class TestWeights:
    def test_they_are_shares(self, name: str, load: float | None) -> None:
        assert drive(name, (100, 100, 5), 6000, load)[2] == pytest.approx(2.4, abs=0.5)

    def test_double_the_weight_is_not_everything(self, name: str, load: float | None) -> None:
        assert drive(name, (100, 100, 200), 2000, load)[2] == pytest.approx(50, abs=6)


@pytest.mark.parametrize("cpus", [(0, 0, 0), (3, 7, 5)], ids=["equal", "noise"])
@pytest.mark.parametrize("name", ["expected-delay", "least-connections", "report"])
@pytest.mark.parametrize(
    ("weights", "expected"),
    [((100, 100, 5), (0.488, 0.488, 0.024)), ((100, 100, 200), (0.25, 0.25, 0.5)), ((1, 1, 2), (0.25, 0.25, 0.5))],
)
def test_where_turns_break_ties_a_weight_is_a_share_of_idle_back_ends_clients(
    name: str, cpus: tuple[int, ...], weights: tuple[int, ...], expected: tuple[float, ...]
) -> None:
    balance = balance_by(name)
    backends = [balance.up(agent(number), weight=weight) for number, weight in enumerate(weights)]
    for backend, cpu in zip(backends, cpus, strict=True):
        balance.report(backend, cpu=cpu)
    served = shares(balance.serve(6000, held=False), backends)
    assert [count / 6000 for count in served] == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("name", ["expected-delay", "least-connections"])
class TestFewestSessions:
    def test_the_one_with_the_fewest_is_chosen(self, name: str) -> None:
        balance = balance_by(name)
        backends = balance.all_up(3)
        balance.serve(9, held=True)
        balance.close(backends[1])
        assert balance.choose() is backends[1]

    def test_one_that_is_still_connecting_counts(self, name: str) -> None:
        balance = balance_by(name)
        slow, other = balance.all_up(2)
        for _ in range(5):
            balance.lease(slow)
        assert set(balance.serve(5, held=True)) == {other}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_one_client_at_a_time_is_not_always_on_the_same_host(name: str) -> None:
    assert max(drive(name, (100, 100, 100), 600, None)) <= 50
    assert max(drive(name, (100, 100), 600, None)) <= 60


class Machine(RuleBasedStateMachine):
    """Any sequence of events that a policy is notified of."""

    policy_name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.policy = policy(self.policy_name)
        self.balance = Balance(self.policy, limits=evolve(UNLIMITED, confirmed=8), slow_start_s=0, panic_below=0)
        self.instances = count()
        self.penalises = self.policy_name != "expected-delay"
        """That one has penalties of its own, and no failure comes last beyond the next report."""
        self.failed: dict[Backend, float] = {}
        """When each last did; without those that may be chosen like others again."""
        self.held: list[Backend] = []

    def backend(self, data: st.DataObject) -> Backend:
        return data.draw(st.sampled_from(self.present))

    def is_penalised(self, backend: Backend) -> bool:
        return backend in self.failed and is_penalised(backend, self.failed[backend], self.balance.now)

    @property
    def present(self) -> list[Backend]:
        return [backend for backend in self.balance.pool if backend.state is not State.DEPARTED]

    @precondition(lambda self: len(self.present) < 8)
    @rule(
        number=st.integers(0, 7),
        weight=st.sampled_from([1, 50, 100, 300]),
        most=st.sampled_from([None, None, None, 1, 2, 5]),
    )
    def arrive(self, number: int, weight: int, most: int | None) -> None:
        there = self.balance.pool.get(agent(number)[0], 80)
        if there is None or there.state is State.DEPARTED:
            if there is not None:
                self.failed.pop(there, None)
            self.balance.up(agent(number), weight=weight, instance=next(self.instances), max_connections=most)

    @precondition(lambda self: bool(self.present))
    @rule(
        data=st.data(),
        percent=st.none() | st.integers(0, 100),
        tcp=st.none() | st.integers(0, 20),
        others=st.none() | st.integers(0, 20),
        before_s=st.sampled_from([0.0, PENALTY_S]),
        after_s=st.sampled_from([0.001, 0.1]),
        draining=st.sampled_from([False, False, False, True]),
    )
    def report(
        self,
        data: st.DataObject,
        percent: int | None,
        tcp: int | None,
        others: int | None,
        before_s: float,
        after_s: float,
        draining: bool,
    ) -> None:
        backend = self.backend(data)
        self.balance.now += before_s
        self.balance.report(backend, after_s=after_s, cpu=percent, tcp=tcp, others=others, load=tcp, draining=draining)
        if not (self.penalises and backend.usable and self.is_penalised(backend)):
            self.failed.pop(backend, None)

    @precondition(lambda self: bool(self.present))
    @rule(data=st.data())
    def miss(self, data: st.DataObject) -> None:
        backend = self.backend(data)
        self.balance.lose(self.balance.probe(backend))
        if backend.is_up and backend.usable:  # of others nothing is remembered; of full ones it is
            self.failed[backend] = self.balance.now

    @precondition(lambda self: bool(self.present))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        backend = self.backend(data)
        self.balance.unregister((backend.address, 5555), instance=backend.registration.instance)

    @precondition(lambda self: self.balance.choose() is not None)
    @rule(sessions=st.integers(1, 10))
    def open(self, sessions: int) -> None:
        for _ in range(sessions):
            if self.balance.choose() is not None:
                self.held.append(self.balance.open())

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data(), served_s=st.floats(0, 1000), passed_s=st.floats(0, 100))
    def close(self, data: st.DataObject, served_s: float, passed_s: float) -> None:
        self.balance.now += passed_s
        self.balance.close(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))), served_s=served_s)

    @precondition(lambda self: bool(self.balance.pool.eligible))
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(self.balance.pool.eligible))
        self.balance.refuse(backend)
        self.failed[backend] = self.balance.now

    @invariant()
    def every_backend_is_explained(self) -> None:
        for backend in self.balance.pool:
            explanation = self.policy.explain(backend, self.balance.now)
            assert all(map(isfinite, (explanation.value, *explanation.terms.values())))


class RankedMachine(Machine):
    """The choice is where a search of the whole pool finds the lowest rank."""

    def lowest(self, *exclude: Backend) -> tuple[float, ...] | None:
        left = [backend for backend in self.balance.pool if backend.eligible and backend not in exclude]
        return min(map(self.key, left), default=None)

    def key(self, backend: Backend) -> tuple[float, ...]:
        assert isinstance(self.policy, Ranked)
        return (backend in self.failed, *self.policy.rank(backend))

    @invariant()
    def the_choice_has_the_lowest_rank(self) -> None:
        best = self.balance.choose()
        assert (None if best is None else self.key(best)) == self.lowest()
        if best is not None:
            second = self.balance.choose(best)
            assert (None if second is None else self.key(second)) == self.lowest(best)


class DrawingMachine(Machine):
    """The choice is one of those that may be chosen, the same if repeated, and drawn from what a search finds."""

    @invariant()
    def the_choice_is_one_that_may_be_chosen(self) -> None:
        eligible = set(self.balance.pool.eligible)
        excluded: list[Backend] = []
        while (chosen := self.balance.choose(*excluded)) is not None:
            assert self.balance.choose(*excluded) is chosen
            left = eligible - set(excluded)
            assert chosen in left
            assert chosen not in self.failed or left <= self.failed.keys()
            excluded.append(chosen)
        assert set(excluded) == eligible

    @invariant()
    def the_weights_are_those_of_the_eligible(self) -> None:
        drawing = self.policy
        assert isinstance(drawing, Drawing)
        known = {backend: record for backend, record in drawing._records.items() if backend.eligible}
        assert set(known) == set(self.balance.pool.eligible)
        for backend, record in known.items():
            assert record.tree is (drawing._failed if backend in self.failed else drawing._sound)
            assert record.tree.weight(record.index) == drawing._weight(backend, record.figures, self.balance.now)
        for tree in (drawing._sound, drawing._failed):
            weights = [tree.weight(record.index) for record in drawing._records.values() if record.tree is tree]
            assert (tree.total, tree.count) == (sum(weights), sum(weight > 0 for weight in weights))
        full = [record for backend, record in drawing._records.items() if not backend.eligible and backend.usable]
        assert all(record.tree.weight(record.index) == 0 and not record.drawn for record in full)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_any_churn_leaves_the_choice_where_it_belongs(name: str) -> None:
    kind = RankedMachine if isinstance(policy(name), Ranked) else DrawingMachine
    machine = type(kind.__name__, (kind,), {"policy_name": name})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=50, deadline=None))
