"""The expected delay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rproxy.policies.brake import TOO_SHORT
from rproxy.policies.expected_delay import ExpectedDelayPolicy
from rproxy.policies.registry import make_policy
from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.wire.pdu import COUNT_MAX, WEIGHT_MAX
from tests.fakes import UNLIMITED
from tests.policies.balancing import Balance, balance_by, policy, shares
from tests.pool.driving import agent

MANY = 6000
"""Clients of a measured share."""


@pytest.fixture
def balance() -> Balance:
    return balance_by("expected-delay")


def delay(balance: Balance, backend: Backend) -> float:
    return balance.pool.explain(backend, balance.now).value


def work(balance: Balance, served_s: float, *others: Backend) -> Backend:
    """A session that is served for so long, on one that is none of `others`."""
    backend = balance.open(*others)
    balance.now += served_s
    balance.close(backend, served_s=served_s)
    return backend


class TestSessions:
    def test_sessions_of_other_proxies_count(self, balance: Balance) -> None:
        theirs, free = balance.all_up(2)
        balance.report(theirs, tcp=10, others=10)
        assert set(balance.serve(10, held=True)) == {free}
        assert theirs in balance.serve(3, held=True)

    def test_sessions_of_other_proxies_count_where_the_host_cannot_count(self, balance: Balance) -> None:
        theirs, free = balance.all_up(2)
        balance.report(theirs, tcp=None, others=10)
        assert set(balance.serve(10, held=True)) == {free}

    def test_a_pool_of_connections_that_nobody_claims_is_no_load(self, balance: Balance) -> None:
        """A service's own, to its database."""
        backends = balance.all_up(2)
        pooled = balance.up(agent(7))
        fresh = balance_by("expected-delay")
        other = fresh.register()
        fresh.report(other, tcp=100, others=0)
        assert delay(fresh, other) == delay(balance, pooled) == delay(balance, backends[0])

    def test_connections_beyond_that_pool_are_load(self, balance: Balance) -> None:
        loaded, free = balance.all_up(2)
        for tcp in (100, 110):
            balance.report(loaded, tcp=tcp)
        assert set(balance.serve(8, held=True)) == {free}

    def test_a_host_that_can_tell_nothing_is_taken_for_as_busy_as_the_others(self, balance: Balance) -> None:
        blind, *others = balance.all_up(4)
        for backend in others:
            for load, tcp in ((0, 0), (40, 20)):
                balance.report(backend, cpu=90, memory=50, load=load, tcp=tcp)
        balance.report(blind, cpu=None, memory=None, load=None, tcp=None)
        assert 15 <= balance.serve(100, held=True).count(blind) <= 30

    def test_a_report_that_grows_old_tends_to_what_is_usual(self, balance: Balance) -> None:
        busy, _ = balance.all_up(2)
        for _ in range(30):
            balance.now += 1
            balance.report(busy, tcp=20, others=20)
        balance.report(busy, tcp=0, others=0)
        before = delay(balance, busy)
        balance.now += 60
        assert delay(balance, busy) > before + 5


def report_for(balance: Balance, seconds: float, figures: Mapping[Backend, Mapping[str, int | None]]) -> None:
    """Each of them tells its figures every 0.1 s for that long."""
    for _ in range(round(seconds * 10)):
        balance.now += 0.1
        for backend, told in figures.items():
            balance.report(backend, after_s=0, **told)


class TestRate:
    def busy(self, balance: Balance, quick: Backend, slow: Backend, seconds: float) -> None:
        """Sessions are served for 0.1 s by one and for 0.4 s by the other, always one on each."""
        end = balance.now + seconds
        while balance.now < end:
            held = balance.open(quick)
            assert held is slow
            for _ in range(4):
                work(balance, 0.1, slow)
            balance.close(slow, served_s=0.4)
            for backend in (quick, slow):
                balance.report(backend, cpu=100, tcp=backend.connections)

    def test_the_faster_back_end_carries_more(self, balance: Balance) -> None:
        quick, slow = balance.all_up(2)
        self.busy(balance, quick, slow, 20)
        of_quick, of_slow = shares(balance.serve(50, held=True), [quick, slow])
        assert of_quick / of_slow == pytest.approx(4, rel=0.3)

    def test_an_idle_one_is_not_known_to_be_faster_for_ever(self, balance: Balance) -> None:
        quick, slow = balance.all_up(2)
        self.busy(balance, quick, slow, 20)
        balance.now += 120
        for backend in (quick, slow):
            balance.report(backend)
        assert shares(balance.serve(50, held=True), [quick, slow]) == pytest.approx([25, 25], abs=2)

    def test_sessions_that_stay_open_make_a_back_end_slower_without_a_report(self, balance: Balance) -> None:
        quick, slow = balance.all_up(2)
        self.busy(balance, quick, slow, 20)
        balance.open(slow)
        before = delay(balance, quick)
        balance.now += 5
        assert delay(balance, quick) > 1.5 * before

    def test_departures_that_come_fast_because_sessions_are_many_are_no_speed(self, balance: Balance) -> None:
        """Sessions that wait for something else: those of the host that has most end most often."""
        few, many = balance.all_up(2)
        for _ in range(5):
            balance.open(many)
        for _ in range(50):
            balance.open(few)
        for step in range(2000):
            balance.now += 0.02
            backend = few if step % 11 == 0 else many
            balance.close(backend, served_s=1.0)
            balance.open(many if backend is few else few)
            if step % 10 == 0:
                for each in (few, many):
                    balance.report(each, cpu=5, tcp=each.connections)
        assert balance.choose() is few

    def test_a_clock_that_stands_still_tells_no_speed(self, balance: Balance) -> None:
        backends = balance.all_up(2)
        for _ in range(100):
            balance.close(balance.open(backends[1]), served_s=0)
        for backend in backends:
            balance.report(backend, after_s=0)
        assert shares(balance.serve(100, held=True), backends) == pytest.approx([50, 50], abs=2)


class TestWeights:
    @pytest.mark.parametrize(
        ("weights", "expected"),
        [
            ((100, 100, 5), (0.488, 0.488, 0.024)),
            ((100, 100, 200), (0.25, 0.25, 0.5)),
            ((1, 1, 2), (0.25, 0.25, 0.5)),
            ((10_000, 10_000, 20_000), (0.25, 0.25, 0.5)),
        ],
    )
    def test_a_weight_is_a_share_of_idle_back_ends_clients(
        self, balance: Balance, weights: tuple[int, ...], expected: tuple[float, ...]
    ) -> None:
        backends = [balance.up(agent(number), weight=weight) for number, weight in enumerate(weights)]
        rng = Random(1)
        served = []
        for client in range(MANY):
            if client % 5 == 0:
                balance.report(rng.choice(backends), after_s=rng.uniform(0.001, 0.002), cpu=rng.randrange(3, 8))
            served.append(work(balance, rng.uniform(0.004, 0.006)))
        assert [count / MANY for count in shares(served, backends)] == pytest.approx(expected, abs=0.005)

    @pytest.mark.parametrize("weight", [1, 100, 10_000])
    def test_what_weights_are_relative_to_is_the_pool(self, balance: Balance, weight: int) -> None:
        """Whatever the operator's scale, a session on an idle back-end doubles its delay."""
        backend, other = balance.all_up(2, weight=weight)
        balance.open(other)
        assert delay(balance, backend) == pytest.approx(2 * delay(balance, other), abs=0.1)

    def test_under_load_a_weight_scales_what_is_carried(self, balance: Balance) -> None:
        backends = [balance.up(agent(number), weight=weight) for number, weight in enumerate((100, 100, 200))]
        assert shares(balance.serve(400, held=True), backends) == pytest.approx([100, 100, 200], abs=3)

    def test_weights_that_become_equal_are_forgotten(self, balance: Balance) -> None:
        backends = [balance.up(agent(number), weight=weight) for number, weight in enumerate((100, 100, 5))]
        balance.serve(200, held=False)
        balance.register((backends[2].address, 5555), weight=100)
        assert shares(balance.serve(300, held=False), backends) == pytest.approx([100, 100, 100], abs=2)

    def test_a_weight_that_leaves_is_forgotten(self, balance: Balance) -> None:
        *backends, light = (balance.up(agent(number), weight=weight) for number, weight in enumerate((100, 100, 5)))
        balance.serve(200, held=False)
        balance.unregister((light.address, 5555))
        for backend in backends:
            balance.report(backend)
        assert shares(balance.serve(300, held=False), backends) == pytest.approx([150, 150], abs=2)


class TestLightTraffic:
    def test_reports_that_differ_by_noise_are_ties(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        rng = Random(2)
        served = []
        for client in range(600):
            if client % 50 == 0:
                for backend in backends:
                    balance.report(backend, after_s=rng.uniform(0.001, 0.002), cpu=rng.randrange(2, 9), memory=40)
            served.append(work(balance, rng.uniform(0.002, 0.004)))
        assert max(shares(served, backends)) <= 260

    def test_after_load_equal_ones_are_still_ties(self, balance: Balance) -> None:
        """Rates learned from few sessions, and what others' sessions leave in the averages, are noise."""
        rng, backends = Random(3), balance.all_up(3)
        slow = backends[2]
        for number in range(300):
            served = balance.serve(3, held=True)
            balance.now += 0.03
            for backend in served:
                balance.close(backend, served_s=rng.expovariate(1 / (0.06 if backend is slow else 0.02)))
            if number % 3 == 0:
                for backend in backends:
                    tcp = backend.counts.established + rng.randrange(2) * rng.randrange(2)
                    balance.report(backend, cpu=rng.randrange(40, 50), tcp=tcp)
        for backend in backends:
            balance.report(backend, cpu=45, tcp=backend.counts.established)
        first, second, _ = shares([work(balance, 0.001) for _ in range(60)], backends)
        assert first == pytest.approx(second, abs=2)

    def test_two_hosts_and_three_clients(self, balance: Balance) -> None:
        backends = balance.all_up(2)
        assert sorted(shares(balance.serve(3, held=True), backends)) == [1, 2]

    def test_a_pool_of_one(self, balance: Balance) -> None:
        backend = balance.up()
        balance.report(backend, cpu=100, memory=100, load=100, tcp=1000)
        assert set(balance.serve(10, held=True)) == {backend}


class TestBrake:
    def test_memory_is_no_load(self, balance: Balance) -> None:
        database, other = balance.all_up(2)
        balance.report(database, memory=75)
        assert shares(balance.serve(100, held=False), [database, other]) == [50, 50]
        assert database.passed_over == ""

    def test_memory_that_is_nearly_exhausted_is(self, balance: Balance) -> None:
        full, other = balance.all_up(2)
        balance.report(full, memory=96)
        assert set(balance.serve(6, held=True)) == {other}
        assert full.passed_over == "memory from 95 %"

    def test_memory_at_its_threshold_does_not_flap(self, balance: Balance) -> None:
        backend, _ = balance.all_up(2)
        said = []
        for memory in (94, 95, 94, 93, 95, 92, 94, 95):
            balance.report(backend, memory=memory)
            said.append(bool(backend.passed_over))
        assert said == [False, True, True, True, True, False, False, True]

    @pytest.mark.parametrize("option", ["memory-from", "cpu-from", "loss-from"])
    def test_the_thresholds_are_options(self, option: str) -> None:
        figures = {"memory-from": {"memory": 60}, "cpu-from": {"cpu": 45}, "loss-from": {}}[option]
        delays = []
        for options in ({}, {option: "1"}):
            balance = Balance(make_policy("expected-delay", options, Random(1)))
            backend, _ = balance.all_up(2)
            for _ in range(30):
                balance.report(backend)
            if not figures:
                balance.lose(balance.probe(backend))
            for _ in range(30):
                balance.report(backend, after_s=0.1, **figures)
            delays.append(delay(balance, backend))
        assert delays[1] > delays[0]

    def test_ten_sessions_one_after_the_other_spread_over_both(self, balance: Balance) -> None:
        """The report's test 2a."""
        first, second = balance.all_up(2)
        assert set(balance.serve(10, held=False)) == {first, second}

    def test_altered_to_report_full_load_it_gets_no_session(self, balance: Balance) -> None:
        """The report's test 2b."""
        first, second = balance.all_up(2)
        balance.report(second, cpu=100, memory=100, tcp=100)
        assert set(balance.serve(10, held=False)) == {first}

    @pytest.mark.parametrize(("load", "at_least"), [(10, 2), (50, 6), (100, 10)])
    def test_an_accept_queue_that_fills_counts_early_and_strongly(
        self, balance: Balance, load: int, at_least: int
    ) -> None:
        queueing, other = balance.all_up(2)
        balance.report(other, load=0)
        balance.report(queueing, load=load)
        assert delay(balance, queueing) >= at_least * delay(balance, other)

    def test_losses_count_but_not_those_of_one_that_is_down_in_a_panic(self) -> None:
        balance = Balance(policy("expected-delay"), limits=UNLIMITED, slow_start_s=0, panic_below=0.9)
        lossy, other = balance.all_up(2)
        for _ in range(2):
            balance.lose(balance.probe(lossy))
            balance.report(lossy)
        assert delay(balance, lossy) > 2 * delay(balance, other)
        balance.down(lossy)
        assert (lossy.state, lossy.eligible) == (State.DOWN, True)
        assert delay(balance, lossy) == delay(balance, other)


class TestOtherPrograms:
    """CPU that no sessions account for slows down those that come."""

    def half_busy(self, balance: Balance, backend: Backend, other: Backend, seconds: float) -> None:
        """A session of ours is open in half of the time, and takes all CPU."""
        for _ in range(round(seconds * 2)):
            balance.open(other)
            report_for(balance, 0.2, {backend: {"cpu": 50, "tcp": 1}})
            balance.close(backend, served_s=0.2)
            report_for(balance, 0.2, {backend: {"cpu": 50, "tcp": 0}})

    def factor(self, balance: Balance, backend: Backend) -> float:
        return balance.pool.explain(backend, balance.now).terms.get("CPU factor", 1.0)

    def test_an_idle_host_is_as_slow_as_they_make_it(self, balance: Balance) -> None:
        taken, free = balance.all_up(2)
        report_for(balance, 5.0, {taken: {"cpu": 64}, free: {"cpu": 4}})
        assert self.factor(balance, taken) == pytest.approx(0.9 / 0.36, rel=0.1)
        assert self.factor(balance, free) == 1
        assert set(balance.serve(20, held=False)) == {free}
        assert shares(balance.serve(3, held=True), [taken, free]) == [1, 2]

    def test_it_is_known_soon_and_forgotten_soon(self, balance: Balance) -> None:
        backend, other = balance.all_up(2)
        report_for(balance, 10.0, {backend: {"cpu": 5}, other: {"cpu": 5}})
        report_for(balance, 1.0, {backend: {"cpu": 80}})
        assert self.factor(balance, backend) > 1.5
        report_for(balance, 2.5, {backend: {"cpu": 5}})
        assert self.factor(balance, backend) == 1

    def test_our_sessions_take_what_they_take(self, balance: Balance) -> None:
        backend, other = balance.all_up(2)
        self.half_busy(balance, backend, other, 10.0)
        assert self.factor(balance, backend) == 1

    def test_so_do_those_of_others(self, balance: Balance) -> None:
        backend, _ = balance.all_up(2)
        for _ in range(10):
            report_for(balance, 0.3, {backend: {"cpu": 50, "tcp": 1, "others": 1}})
            report_for(balance, 0.3, {backend: {"cpu": 50, "tcp": 0, "others": 0}})
        assert self.factor(balance, backend) == 1

    def test_of_a_host_without_a_pause_cpu_tells_nothing(self, balance: Balance) -> None:
        backend, other = balance.all_up(2)
        report_for(balance, 5.0, {backend: {"cpu": 80}})
        assert self.factor(balance, backend) > 3
        balance.open(other)
        report_for(balance, 8.0, {backend: {"cpu": 100, "tcp": 1}})
        assert self.factor(balance, backend) == 1

    def test_noise_does_not_part_hosts_that_are_taken_alike(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        rng, served = Random(4), []
        for _ in range(600):
            report_for(balance, 0.1, {each: {"cpu": rng.randrange(47, 54)} for each in backends})
            served.append(work(balance, 0.003))
        assert max(shares(served, backends)) <= 300

    def test_one_that_tells_no_cpu_is_taken_for_average(self, balance: Balance) -> None:
        blind, *others = balance.all_up(4)
        report_for(balance, 5.0, {blind: {"cpu": None}, **{each: {"cpu": 60} for each in others}})
        assert self.factor(balance, blind) == pytest.approx(self.factor(balance, others[0]), rel=0.01)
        assert self.factor(balance, blind) > 1.8

    def test_an_option_switches_it_off(self) -> None:
        balance = Balance(make_policy("expected-delay", {"cpu-from": "100"}, Random(1)))
        backend, _ = balance.all_up(2)
        report_for(balance, 5.0, {backend: {"cpu": 100}})
        assert self.factor(balance, backend) == 1


class TestFailures:
    def test_a_failure_counts_beyond_the_next_report(self, balance: Balance) -> None:
        failed, other = balance.all_up(2)
        balance.refuse(failed)
        balance.report(failed)
        assert delay(balance, failed) > 1.5 * delay(balance, other)
        balance.now += 60
        balance.report(failed)
        assert delay(balance, failed) == pytest.approx(delay(balance, other), abs=0.1)

    def test_a_lost_probe_alone_is_no_failure(self, balance: Balance) -> None:
        missing, other = balance.all_up(2)
        for _ in range(50):
            balance.report(missing)
        balance.lose(balance.probe(missing))
        balance.report(missing)
        assert delay(balance, missing) == delay(balance, other)

    def test_thousands_of_failures_between_reports_leave_a_choice(self, balance: Balance) -> None:
        backend, other = balance.all_up(2)
        for _ in range(3000):
            balance.lease(backend)
            balance.policy.failed(backend, balance.now)
            balance.close(backend, was_connected=False)
        assert math.isfinite(delay(balance, backend))
        assert balance.choose() is other

    def sinkhole(self, balance: Balance, *, fails: bool) -> tuple[int, int]:
        """Sessions of 2 of 20 that end within 2 ms, of 6,000 that others serve for 100 ms; and all sessions."""
        backends = balance.all_up(20)
        sinks = set(backends[:2])
        rng, met = Random(1), 0
        ends: list[tuple[float, Backend, float]] = []
        for client in range(MANY):
            balance.now += 0.01
            for end in [each for each in ends if each[0] <= balance.now]:
                ends.remove(end)
                balance.close(end[1], served_s=end[2])
            if client % 10 == 0:
                for backend in backends:
                    balance.report(backend, after_s=0, cpu=0 if backend in sinks else 50, tcp=backend.connections)
            backend = balance.open()
            if backend not in sinks:
                served_s = rng.expovariate(10)
                ends.append((balance.now + served_s, backend, served_s))
                continue
            met += 1
            balance.now += 0.002
            if fails:
                balance.policy.failed(backend, balance.now)
                balance.pool.closed(backend, balance.now, was_connected=True, served_s=None)
            else:
                balance.close(backend, served_s=0.002)
        return met, MANY

    @pytest.mark.parametrize("fails", [True, False])
    def test_fast_failures_that_look_idle_get_few_clients(self, balance: Balance, fails: bool) -> None:
        met, clients = self.sinkhole(balance, fails=fails)
        by_least_connections, _ = self.sinkhole(balance_by("least-connections"), fails=fails)
        assert met <= 0.1 * by_least_connections
        assert met <= 0.02 * clients

    def test_one_that_answers_too_soon_is_said_to_and_forgiven(self, balance: Balance) -> None:
        hasty, *others = balance.all_up(5)
        for _ in range(30):
            for backend in others:
                work(balance, 0.1, *[each for each in (hasty, *others) if each is not backend])
        for backend in others:
            balance.report(backend, cpu=50)
        for _ in range(20):
            work(balance, 0.001, *others)
        balance.report(hasty)
        assert hasty.passed_over == TOO_SHORT
        work(balance, 0.1, *others)
        balance.report(hasty)
        assert hasty.passed_over == ""

    def test_a_newcomer_is_not_flooded(self, balance: Balance) -> None:
        """One that is added to a full pool gets as many sessions as the others have, not all that come."""
        backends = balance.all_up(9)
        for _ in range(90):
            balance.open()
        newcomer = balance.up(agent(20))
        balance.serve(20, held=True)
        assert newcomer.connections <= 12
        assert min(each.connections for each in backends) >= 10


class TestLongSessions:
    def test_cpu_counts_where_sessions_are_long(self, balance: Balance) -> None:
        """Ten busy sessions on one host, a hundred that do nothing on the other."""
        busy, idle = balance.all_up(2)
        for _ in range(10):
            balance.open(idle)
        for _ in range(100):
            balance.open(busy)
        for _ in range(120):
            balance.now += 1
            balance.report(busy, cpu=95, tcp=busy.connections)
            balance.report(idle, cpu=5, tcp=idle.connections)
        assert set(balance.serve(5, held=True)) == {idle}

    def test_sessions_opened_since_the_report_are_expected_to_take_cpu(self, balance: Balance) -> None:
        first, second = backends = balance.all_up(2)
        for _ in range(10):
            balance.open(first)
            balance.open(second)
        for _ in range(120):
            balance.now += 1
            balance.report(first, cpu=40, tcp=first.connections)
            balance.report(second, cpu=50, tcp=second.connections)
        assert shares(balance.serve(10, held=True), backends)[1] >= 2


class TestExplain:
    def test_it_is_what_is_compared(self, balance: Balance) -> None:
        backends = balance.all_up(5, weight=100)
        balance.up(agent(9), weight=50)
        rng = Random(3)
        for _ in range(300):
            backend = rng.choice(backends)
            balance.report(backend, cpu=rng.randrange(101), memory=rng.randrange(101), load=rng.randrange(50), tcp=9)
            chosen = balance.open()
            assert delay(balance, chosen) >= 0
            balance.close(chosen)
            best = balance.choose()
            assert best is not None
            assert delay(balance, best) == min(delay(balance, each) for each in balance.pool)

    def test_its_terms_are_those_that_matter(self, balance: Balance) -> None:
        backend, other = balance.all_up(2)
        report_for(balance, 3.0, {backend: {"cpu": 100}})
        balance.open(other)
        balance.report(backend, cpu=100, memory=97, load=20, tcp=1)
        terms = balance.pool.explain(backend, balance.now).terms
        assert terms == {
            "own sessions": 1,
            "others' sessions": 0,
            "sessions too short": 0,
            "weight": 1,
            "rate": pytest.approx(1, abs=0.01),
            "CPU factor": pytest.approx(10, rel=0.06),
            "memory factor": 12,
            "service load factor": 3,
        }

    def test_of_one_that_is_not_eligible(self, balance: Balance) -> None:
        assert math.isfinite(delay(balance, balance.register()))
        ranked = balance.policy
        assert isinstance(ranked, ExpectedDelayPolicy)
        assert len(ranked._places) == 0


class TestSums:
    """What is summed over the pool is that of the back-ends that are in it."""

    def test_those_that_leave_take_their_part_with_them(self, balance: Balance) -> None:
        stays = balance.up(agent(0))
        rng = Random(1)
        for instance in range(300):
            passing = balance.up(agent(1), instance=instance, weight=rng.randrange(1, 1000))
            balance.report(passing, cpu=rng.randrange(100), load=5, tcp=rng.randrange(50), others=3)
            work(balance, 0.1, stays)
            balance.now += 1
            balance.report(passing, cpu=rng.randrange(100), load=5, tcp=rng.randrange(50), others=3)
            balance.unregister(agent(1), instance=instance)
            balance.policy.reported(passing, balance.now)
        balance.report(stays)
        ranked = balance.policy
        assert isinstance(ranked, ExpectedDelayPolicy)
        (place,) = ranked._places.values()
        assert ranked._others == pytest.approx(place.told_foreign, abs=1e-6)
        assert ranked._cpu == pytest.approx(place.recent_cpu, abs=1e-6)
        assert ranked._tellers == 1
        assert ranked._taken == pytest.approx(1 - place.left, abs=1e-6)
        assert ranked._slow_sessions == pytest.approx(place.slow_sessions, abs=1e-6)
        assert (ranked._weights.mean, ranked._weights.differ) == (100, False)
        assert not ranked._brake.knows_loads

    def test_rounding_errors_do_not_gather(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        ranked = balance.policy
        assert isinstance(ranked, ExpectedDelayPolicy)
        ranked._cpu = ranked._others = ranked._log_rates = ranked._taken = 1e9
        ranked._compact()
        assert ranked._cpu == sum(ranked._places[each].recent_cpu for each in backends)
        assert ranked._others == 0
        assert ranked._log_rates == 0
        assert ranked._taken == 0


FIGURE = st.none() | st.sampled_from([0, 1, 50, 99, 100])
COUNT = st.none() | st.sampled_from([0, 1, 1000, COUNT_MAX])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_input_leads_to_anything_but_a_finite_delay(data: st.DataObject) -> None:
    """Figures, weights, times and lengths at their extremes, and a clock that stands still."""
    balance = balance_by("expected-delay")
    weights = data.draw(st.lists(st.sampled_from([1, 100, WEIGHT_MAX]), min_size=1, max_size=4))
    backends = [balance.up(agent(number), weight=weight) for number, weight in enumerate(weights)]
    for _ in range(30):
        backend = data.draw(st.sampled_from(backends))
        match data.draw(st.sampled_from(["report", "serve", "hold", "fail", "wait"])):
            case "report":
                cpu, memory, load = (data.draw(FIGURE) for _ in range(3))
                tcp, others = data.draw(COUNT), data.draw(COUNT)
                after_s = data.draw(st.sampled_from([0.0, 0.001, 0.4]))
                balance.report(backend, after_s=after_s, cpu=cpu, memory=memory, load=load, tcp=tcp, others=others)
            case "serve":
                balance.close(balance.open(), served_s=data.draw(st.sampled_from([0.0, 1e-9, 1.0, 1e9])))
            case "hold":
                balance.open()
            case "fail":
                balance.policy.failed(backend, balance.now)
            case _:
                balance.now += data.draw(st.sampled_from([0.0, 1e-9, 10.0, 1e9]))
        assert all(math.isfinite(delay(balance, each)) for each in backends)
        assert balance.choose() is not None


@pytest.mark.parametrize("tcp", [0, 1, 10])
@pytest.mark.parametrize(("served_s", "pause_s"), [(0.01, 0.02), (0.002, 0.001), (0.01, 0.1), (0.01, 1.0)])
@pytest.mark.parametrize("seed", range(8))
def test_a_few_short_sessions_do_not_make_one_of_three_equal_hosts_the_fastest(
    served_s: float, pause_s: float, seed: int, tcp: int
) -> None:
    """One client at a time, and lengths that are exponential: the first ones of a host may be short by chance. Each has
    as many connections of others, which have just come.
    """
    rng = Random(seed)
    balance = balance_by("expected-delay")
    backends = balance.all_up(3)
    for number in range(600):
        if number % 4 == 0:
            for backend in backends:
                balance.report(
                    backend, cpu=5 + rng.randrange(-3, 4), memory=30, tcp=tcp, after_s=rng.uniform(5e-4, 15e-4)
                )
        chosen, lasted_s = balance.open(), rng.expovariate(1 / served_s)
        balance.now += lasted_s
        balance.close(chosen, served_s=lasted_s)
        balance.now += pause_s
    assert max(backend.counts.total for backend in backends) <= 300
