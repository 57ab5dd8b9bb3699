"""Probes on demand: whose reports are asked for while clients come, how often, and that nothing runs otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from itertools import pairwise

import attrs
import pytest
from twisted.internet.task import Clock

from rproxy.pool.backend import Backend, Registration
from rproxy.pool.states import State
from rproxy.sources.agents.on_demand import BUSY_S, LIKELY_MAX, LIKELY_MIN, LOOKS_MAX, OnDemand, budget_limit
from tests.fakes import logged, run
from tests.pool.driving import agent

REGISTRATION = Registration(("10.0.0.1", 5555), instance=1, interval_s=20.0, weight=100)


class Bench:
    """Back-ends that are up, in the order in which they would be chosen; all answer after `rtt_s`, but `silent` ones.

    It is the part of the pool that is used. Probes that are not answered are lost after half a second.
    """

    def __init__(
        self, backends: int = 10, *, freshness_s: float | None = 0.1, budget: float = 500.0, rtt_s: float = 0.001
    ) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1000.0
        self.rtt_s = rtt_s
        self.choices = 0
        self.wake: Callable[[], None] | None = None
        self.eligible = [self._up(number) for number in range(backends)]
        self.asked: list[tuple[float, Backend]] = []
        self._ends_at: dict[Backend, float] = {}
        self.held_back = 0
        self.silent: set[Backend] = set()
        self.would_choose_calls = 0
        self.on_demand = OnDemand(
            self.clock, self, freshness_s, budget_limit(freshness_s, budget), self._probe, self._held_back
        )
        self.on_demand.start()

    def _up(self, number: int) -> Backend:
        backend = Backend(agent(number)[0], 80, attrs.evolve(REGISTRATION, agent=agent(number), instance=number))
        backend.state = State.UP
        backend.probing.asked_at = self.clock.seconds() - 1 - number / 10_000
        return backend

    def would_choose(self, now: float, exclude: Collection[Backend]) -> Backend | None:
        self.would_choose_calls += 1
        return next((backend for backend in self.eligible if backend not in exclude), None)

    def is_probed(self, backend: Backend, registration: Registration) -> bool:
        assert registration is backend.registration
        return self.clock.seconds() < self._ends_at[backend]

    def _probe(self, backend: Backend) -> None:
        self.asked.append((self.clock.seconds(), backend))
        self.send(backend)

    def send(self, backend: Backend) -> None:
        """Any probe, also a periodic one."""
        backend.probing.asked_at = self.clock.seconds()
        backend.probing.outstanding.add(1)  # for good, so that `is_probed` is what counts
        self._ends_at[backend] = self.clock.seconds() + (0.5 if backend in self.silent else self.rtt_s)

    def _held_back(self) -> None:
        self.held_back += 1

    def client(self) -> None:
        """A client is given a back-end."""
        self.choices += 1
        if self.wake is not None:
            self.wake()

    def busy(self, seconds: float, every_s: float = 0.05) -> None:
        """Clients come for so long."""
        for _ in range(round(seconds / every_s)):
            self.client()
            run(self.clock, every_s)

    def times(self, backend: Backend) -> list[float]:
        return [at for at, each in self.asked if each is backend]


def test_without_clients_nothing_is_asked_and_no_timer_runs() -> None:
    bench = Bench()
    run(bench.clock, 60)
    assert (bench.asked, bench.clock.calls) == ([], [])


def test_the_first_client_has_all_asked_at_once_but_does_not_wait_for_that() -> None:
    bench = Bench()
    bench.client()
    assert bench.asked == []
    run(bench.clock, 0)
    assert bench.asked == [(1000.0, backend) for backend in reversed(bench.eligible)], "the oldest report comes first"


def test_while_clients_come_every_report_is_asked_for_as_soon_as_it_is_as_old_as_the_freshness() -> None:
    bench = Bench()
    bench.busy(10.0)
    for backend in bench.eligible:
        waits = [after - before for before, after in pairwise(bench.times(backend))]
        assert waits == pytest.approx([0.1] * len(waits))
        assert len(waits) >= 98
    assert bench.held_back == 0


@pytest.mark.parametrize("freshness_s", [0.02, 0.1, 0.35, 1.0])
def test_reports_are_never_asked_for_more_often_than_the_freshness(freshness_s: float) -> None:
    bench = Bench(freshness_s=freshness_s)
    bench.busy(5.0)
    for backend in bench.eligible:
        waits = [after - before for before, after in pairwise(bench.times(backend))]
        assert freshness_s - 1e-6 <= min(waits)
        assert max(waits) <= freshness_s + min(freshness_s / 2, 0.05) + 1e-6


def test_rare_clients_do_not_start_anything_more_often() -> None:
    """Each is followed by a second of probing."""
    bench = Bench(backends=1)
    bench.client()
    run(bench.clock, 30)
    assert bench.clock.calls == []
    assert len(bench.asked) == pytest.approx(BUSY_S / 0.1, abs=1)


def test_a_second_after_the_last_client_all_is_as_before_and_the_next_client_starts_it_again() -> None:
    bench = Bench()
    bench.busy(3.0)
    run(bench.clock, BUSY_S + 0.2)
    asked = len(bench.asked)
    run(bench.clock, 60)
    assert (len(bench.asked), bench.clock.calls) == (asked, [])
    bench.client()
    run(bench.clock, 0)
    assert len(bench.asked) == asked + len(bench.eligible)


def test_one_that_was_probed_for_another_reason_meanwhile_is_not_asked() -> None:
    bench = Bench(backends=2)
    first, second = bench.eligible
    bench.send(first)
    run(bench.clock, 0.03)
    bench.client()
    run(bench.clock, 0.02)
    assert bench.times(first) == []
    assert bench.times(second) == pytest.approx([1000.03])
    run(bench.clock, 0.1)
    assert bench.times(first) == pytest.approx([1000.13])


def test_one_whose_probe_is_on_its_way_is_not_asked_before_it_is_answered() -> None:
    bench = Bench(backends=1, rtt_s=0.28)
    bench.busy(2.9)
    assert [after - before for before, after in pairwise(bench.times(bench.eligible[0]))] == pytest.approx(
        [0.3] * 9, abs=1e-6
    )


def test_one_that_does_not_answer_is_asked_again_after_each_loss_and_delays_no_other() -> None:
    bench = Bench(backends=5)
    bench.silent.add(bench.eligible[2])
    bench.busy(5.0)
    counts = Counter(backend.name for _, backend in bench.asked)
    assert counts[bench.eligible[2].name] == pytest.approx(10, abs=1)
    assert counts[bench.eligible[1].name] == pytest.approx(50, abs=1)


@pytest.mark.parametrize(("state", "asked"), [(State.UP, True), (State.SUSPECT, True), (State.DOWN, False)])
def test_those_that_are_down_get_clients_in_a_panic_but_no_probes_on_demand(state: State, asked: bool) -> None:
    bench = Bench(backends=1)
    bench.eligible[0].state = state
    bench.busy(1.0)
    assert bool(bench.asked) is asked


def test_the_budget_is_never_exceeded_and_the_oldest_reports_come_first() -> None:
    bench = Bench(backends=200, budget=100)
    bench.busy(20.0)
    assert len(bench.asked) == pytest.approx(2000, abs=10)
    for start in range(1000, 1020):
        assert sum(start <= at < start + 1 for at, _ in bench.asked) <= 105
    assert bench.held_back > 300
    counts = Counter(backend.name for _, backend in bench.asked)
    assert len(counts) == 200
    assert set(counts.values()) <= {9, 10, 11}


def test_a_budget_of_one_a_second_asks_one_a_second() -> None:
    bench = Bench(backends=3, budget=1)
    bench.busy(9.0)
    assert [backend for _, backend in bench.asked][:6] == [*reversed(bench.eligible)] * 2
    assert len(bench.asked) == pytest.approx(9, abs=1)


def test_a_large_pool_is_asked_by_age_in_bounded_turns() -> None:
    """Each is asked in its turn: 1,000 with 500 probes a second, every 2 s."""
    bench = Bench(backends=1000)
    bench.busy(8.0)
    counts = Counter(backend.name for _, backend in bench.asked)
    assert len(counts) == 1000
    assert max(counts.values()) <= 5
    assert bench.would_choose_calls == 0


@pytest.mark.parametrize(("every_s", "likely"), [(0.05, LIKELY_MIN), (0.01, 10), (0.001, LIKELY_MAX)])
def test_where_the_budget_is_too_small_for_all_only_those_likely_to_be_chosen_are_kept_fresh(
    every_s: float, likely: int
) -> None:
    """The others are probed periodically."""
    bench = Bench(backends=3000)
    bench.busy(6.0, every_s)
    fresh = bench.eligible[:likely]
    for backend in fresh:
        assert len(bench.times(backend)) == pytest.approx(60, abs=3)
    assert {backend for _, backend in bench.asked} - set(fresh) <= set(bench.eligible[:LIKELY_MAX])
    assert len(bench.asked) <= 62 * likely + LIKELY_MAX
    assert bench.held_back == 0


def test_clients_of_a_large_pool_that_come_all_at_once_do_not_exceed_the_budget() -> None:
    bench = Bench(backends=3000, budget=100)
    bench.busy(5.0, 0.001)
    assert len(bench.asked) == pytest.approx(500, abs=10)
    assert bench.held_back > 50


def test_a_turn_looks_at_a_bounded_number_however_large_the_pool() -> None:
    bench = Bench(backends=1500, budget=10_000)
    looks = 0

    class Counted(list[Backend]):
        def __getitem__(self, index: slice) -> list[Backend]:  # type: ignore[override]
            nonlocal looks
            found = super().__getitem__(index)
            looks = max(looks, len(found))
            return found

        def __iter__(self):  # type: ignore[no-untyped-def]
            raise AssertionError("the whole table")

    bench.eligible = Counted(bench.eligible)
    bench.busy(1.0)
    assert (looks, len({backend.name for _, backend in bench.asked})) == (LOOKS_MAX, 1500)


def test_a_pool_that_shrinks_and_grows_is_asked_all_the_same() -> None:
    bench = Bench(backends=1500, budget=1000)
    everyone = list(bench.eligible)
    bench.busy(1.0)
    for size in (0, 1, 600, 1500):
        bench.eligible[:] = everyone[:size]
        bench.asked.clear()
        bench.busy(4.0)
        assert {backend.name for _, backend in bench.asked} == {backend.name for backend in bench.eligible}


def test_off_nothing_is_ever_asked() -> None:
    bench = Bench(freshness_s=None)
    bench.busy(5.0)
    assert (bench.asked, bench.wake, bench.clock.calls) == ([], None, [])


@pytest.mark.parametrize("busy_s", [0.0, 0.5])
def test_a_stop_releases_everything_and_it_may_be_started_again(busy_s: float) -> None:
    bench = Bench()
    bench.busy(busy_s)
    bench.client()
    for _ in range(2):
        bench.on_demand.stop()
    asked = len(bench.asked)
    bench.client()
    run(bench.clock, 5)
    assert (len(bench.asked), bench.clock.calls, bench.wake) == (asked, [], None)
    bench.on_demand.start()
    bench.busy(1.0)
    assert len(bench.asked) > asked


def test_an_error_is_logged_and_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(backends=1)
    sent = bench.send

    def fail(_: Backend) -> None:
        raise ValueError("spoiled")

    monkeypatch.setattr(bench, "send", fail)
    with logged() as events:
        bench.busy(0.1)
    assert {event["log_failure"].type for event in events if "log_failure" in event} == {ValueError}
    monkeypatch.setattr(bench, "send", sent)
    bench.asked.clear()
    bench.busy(1.0)
    assert len(bench.asked) == pytest.approx(10, abs=1)


def test_after_a_stall_it_does_not_catch_up() -> None:
    bench = Bench()
    bench.busy(1.0)
    asked = len(bench.asked)
    bench.clock.rightNow += 30.0
    bench.client()
    run(bench.clock, 0.02)
    assert len(bench.asked) <= asked + len(bench.eligible)
