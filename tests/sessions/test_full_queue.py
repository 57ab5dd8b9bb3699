"""Clients that wait for back-ends that are full: how many, for how long, in which order, and at what cost."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock

from rproxy.pool.backend import Backend
from rproxy.pool.events import EligibilityChanged, Events
from rproxy.pool.states import Administration
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.wait_queue import AT_ONCE, PAUSE_S, WaitQueue
from tests.fakes import pool_with, run

TIMEOUT_S = 2.0


class Bench:
    """Clients that take a lease when they are called, if there is one, on back-ends with room for one session each."""

    def __init__(self, up: int = 1, *, queue: int = 10, wait_s: float = 5.0, timeout_s: float = TIMEOUT_S) -> None:
        self.clock = Clock()
        self.pool = pool_with(up)
        self.backends = list(self.pool)
        self.publish(self.pool.limit_each(1, 0.0))
        self.terms = ServiceTerms(wait_s=wait_s, queue=queue, queue_timeout_s=timeout_s)
        self.waiting = WaitQueue(self.clock, self.pool, lambda: self.terms)
        self.called: list[tuple[int, Backend | None, float]] = []
        self.turns = 0

    def publish(self, events: Events) -> None:
        for event in events:
            if isinstance(event, EligibilityChanged):
                self.waiting.eligibility_changed(event)

    def take(self, *exclude: Backend) -> Backend | None:
        return self.pool.choose(self.clock.seconds(), exclude)

    def fill(self) -> None:
        while self.take() is not None:
            pass

    def free(self, backend: Backend) -> None:
        self.publish(self.pool.closed(backend, self.clock.seconds(), was_connected=False, served_s=None))

    def add(self, client: int, exclude: Collection[Backend] = (), waited_s: float | None = None) -> bool:
        def call() -> None:
            self.called.append((client, self.take(*exclude), self.clock.seconds()))

        return self.waiting.add(client, call, exclude, waited_s)

    @property
    def names(self) -> list[int]:
        return [client for client, _, _ in self.called]


def full(up: int = 1, **terms: Any) -> Bench:
    bench = Bench(up, **terms)
    bench.fill()
    return bench


def test_each_session_that_ends_serves_the_next_client_and_no_more() -> None:
    bench = full()
    (backend,) = bench.backends
    assert all(bench.add(client) for client in range(3))
    run(bench.clock, 1)
    assert bench.called == []
    bench.free(backend)
    bench.clock.advance(0)
    assert [(client, got) for client, got, _ in bench.called] == [(0, backend)]
    bench.free(backend)
    bench.clock.advance(0)
    assert bench.names == [0, 1]
    assert len(bench.clock.getDelayedCalls()) == 1


def test_who_waits_for_full_ones_does_so_for_the_queues_timeout() -> None:
    bench = full()
    bench.add(1)
    run(bench.clock, 10)
    assert bench.called == [(1, None, TIMEOUT_S)]
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize("up", [1, 3])
def test_so_many_wait_for_each_full_back_end(up: int) -> None:
    bench = full(up, queue=2)
    assert [bench.add(client) for client in range(2 * up + 1)] == [True] * 2 * up + [False]
    bench.waiting.leave(0)
    assert bench.add(99)
    assert not bench.add(100)


@pytest.mark.parametrize("terms", [{"queue": 0}, {"timeout_s": 0}])
def test_nobody_waits_for_a_full_one_where_the_queue_is_off(terms: dict[str, Any]) -> None:
    assert not full(**terms).add(1)


def test_while_none_is_up_the_queue_is_not_what_limits() -> None:
    bench = Bench(0, queue=0, timeout_s=0)
    assert all(bench.add(client) for client in range(100))


def test_if_the_full_ones_go_down_the_time_without_a_back_end_counts_from_when_the_client_came() -> None:
    bench = full(wait_s=5, timeout_s=30)
    bench.add(1)
    run(bench.clock, 1)
    bench.publish(bench.pool.administer(bench.backends[0], Administration.DRAIN, 1.0))
    run(bench.clock, 10)
    ((client, got, at),) = bench.called
    assert (client, got) == (1, None)
    assert at == pytest.approx(5, abs=0.1)


def test_if_it_is_over_already_the_client_is_let_go_at_once() -> None:
    bench = full(wait_s=0, timeout_s=30)
    bench.add(1)
    run(bench.clock, 1)
    bench.publish(bench.pool.administer(bench.backends[0], Administration.DRAIN, 1.0))
    bench.clock.advance(0)
    assert bench.names == [1]


def test_if_one_comes_up_and_is_filled_the_rest_waits_for_the_queues_timeout() -> None:
    bench = Bench(wait_s=30)
    (backend,) = bench.backends
    bench.publish(bench.pool.administer(backend, Administration.DRAIN, 0.0))
    for client in range(2):
        assert bench.add(client)
    bench.publish(bench.pool.administer(backend, Administration.READY, 0.0))
    run(bench.clock, 10)
    assert [(client, got) for client, got, _ in bench.called] == [(0, backend), (1, None)]
    assert bench.called[1][2] == pytest.approx(TIMEOUT_S, abs=0.1)


def test_a_limit_that_is_lifted_serves_all_in_slices() -> None:
    bench = full(queue=1000)
    for client in range(AT_ONCE + 1):
        bench.add(client)
    bench.publish(bench.pool.limit_each(None, 0.0))
    bench.clock.advance(0)
    assert bench.names == list(range(AT_ONCE))
    bench.clock.advance(PAUSE_S)
    assert bench.names == list(range(AT_ONCE + 1))


def test_who_could_not_connect_waits_for_the_others_and_comes_first() -> None:
    bench = full(2)
    failed, other = bench.backends
    bench.add(1)
    assert bench.add(2, exclude=(failed,))
    bench.free(other)
    bench.clock.advance(0)
    assert [(client, got) for client, got, _ in bench.called] == [(2, other)]


def test_who_could_not_connect_does_not_keep_others_from_the_back_end_that_failed_it() -> None:
    bench = full(2)
    failed, _ = bench.backends
    assert bench.add(1, exclude=(failed,))
    assert bench.add(2)
    bench.free(failed)
    bench.clock.advance(0)
    assert [(client, got) for client, got, _ in bench.called] == [(2, failed)]
    assert bench.waiting.waiting == 1


def test_nor_those_that_come_later_from_going_there_at_once() -> None:
    bench = full(2)
    failed, other = bench.backends
    assert bench.add(1, exclude=(failed,))
    bench.free(failed)
    bench.clock.advance(0)
    assert bench.called == []
    assert not bench.waiting.goes_first()
    assert not bench.add(2)  # it is to choose instead
    bench.free(other)
    assert bench.waiting.goes_first()


def test_who_could_not_connect_does_not_wait_behind_one_that_others_have_failed() -> None:
    bench = full(2)
    failed, other = bench.backends
    bench.add(1, exclude=(failed,))
    bench.add(2, exclude=(other,))
    bench.free(failed)
    bench.clock.advance(0)
    assert [(client, got) for client, got, _ in bench.called] == [(2, failed)]
    bench.waiting.leave(1)
    assert (bench.waiting.waiting, bench.waiting.again) == (0, {})


def test_who_has_waited_before_comes_before_those_that_have_not_and_is_let_go_in_time() -> None:
    bench = full(2)
    failed, _ = bench.backends
    for client, waited_s in [(1, None), (2, 1.5), (3, 0.5), (4, None)]:
        assert bench.add(client, exclude=(failed,), waited_s=waited_s)
    run(bench.clock, 10)
    assert [(client, round(at, 1)) for client, _, at in bench.called] == [(2, 0.5), (3, 1.5), (1, 2.0), (4, 2.0)]


def test_while_a_freed_back_end_waits_for_the_next_turn_the_queue_is_as_bounded_as_before() -> None:
    """A session ends, and many clients come in the same turn of the reactor."""
    bench = full(queue=2)
    (backend,) = bench.backends
    bench.add(1)
    bench.add(2)
    bench.free(backend)
    assert [bench.add(client) for client in range(3, 50)] == [False] * 47
    bench.clock.advance(0)
    assert bench.names == [1]
    assert [bench.add(client) for client in range(50, 60)] == [True] + [False] * 9


def test_while_others_are_called_one_after_another_a_client_that_comes_may_wait_for_them() -> None:
    bench = Bench(wait_s=30, queue=1)
    bench.publish(bench.pool.administer(bench.backends[0], Administration.DRAIN, 0.0))
    for client in range(AT_ONCE + 1):
        bench.add(client)
    bench.publish(bench.pool.limit_each(None, 0.0))
    bench.publish(bench.pool.administer(bench.backends[0], Administration.READY, 0.0))
    bench.clock.advance(0)
    assert len(bench.called) == AT_ONCE
    assert bench.add(1000)
    run(bench.clock, 1)
    assert bench.called[-1][:2] == (1000, bench.backends[0])


def test_a_full_back_end_beside_it_does_not_refuse_a_client_that_another_one_takes_soon() -> None:
    bench = Bench(2, wait_s=30, timeout_s=0)
    for backend in bench.backends:
        bench.publish(bench.pool.administer(backend, Administration.DRAIN, 0.0))
    bench.publish(bench.pool.limit_each(2 * AT_ONCE, 0.0))
    for client in range(AT_ONCE + 1):
        bench.add(client)
    for backend in bench.backends:
        bench.publish(bench.pool.administer(backend, Administration.READY, 0.0))
    while bench.pool.full == 0:
        bench.take(bench.backends[1])
    bench.clock.advance(0)
    assert bench.waiting.waiting == 1
    assert bench.add(1000)
    run(bench.clock, 1)
    assert bench.called[-1][:2] == (1000, bench.backends[1])


def test_in_a_drain_clients_wait_for_full_ones_only() -> None:
    bench = full(2, wait_s=30)
    _, other = bench.backends
    assert bench.add(1)
    assert bench.add(2, exclude=(other,))
    bench.waiting.drain()
    assert bench.called == []
    assert bench.add(3)
    bench.free(other)
    bench.clock.advance(0)
    assert [(client, got) for client, got, _ in bench.called] == [(1, other)]
    for backend in bench.backends:
        bench.publish(bench.pool.administer(backend, Administration.DRAIN, 0.0))
    bench.clock.advance(0)
    assert sorted(bench.names) == [1, 2, 3]
    assert not bench.add(4)
    assert bench.clock.getDelayedCalls() == []


def test_a_drain_lets_those_go_at_once_that_wait_while_none_is_up() -> None:
    bench = Bench(0, wait_s=30)
    for client in range(3):
        assert bench.add(client)
    bench.waiting.drain()
    assert bench.names == [0, 1, 2]
    assert not bench.add(4)


def test_a_client_that_only_full_ones_failed_does_not_wait_for_them() -> None:
    bench = full(1)
    assert not bench.add(1, exclude=tuple(bench.backends), waited_s=0.0)


def test_nor_one_that_has_waited_and_finds_only_eligible_ones_that_failed_it() -> None:
    bench = Bench(1)
    assert not bench.add(1, exclude=tuple(bench.backends))
    assert not bench.add(1, exclude=tuple(bench.backends), waited_s=1.0)


def test_the_waits_of_one_client_count_together() -> None:
    bench = full(2)
    failed, _ = bench.backends
    assert bench.add(1, exclude=(failed,), waited_s=1.5)
    run(bench.clock, 10)
    ((client, got, at),) = bench.called
    assert (client, got) == (1, None)
    assert at == pytest.approx(0.5, abs=0.1)
    assert not bench.add(1, exclude=(failed,), waited_s=TIMEOUT_S)


def test_a_client_whose_exclusions_have_become_pointless_is_let_go() -> None:
    """The other back-end goes: what is left has failed it."""
    bench = full(2)
    failed, other = bench.backends
    bench.free(failed)
    assert bench.add(1, exclude=(failed,))
    bench.publish(bench.pool.administer(other, Administration.DRAIN, 0.0))
    bench.clock.advance(0)
    assert bench.names == [1]


def test_a_called_client_for_whom_the_policy_has_nobody_does_not_wait_again() -> None:
    bench = full()
    bench.add(1)
    bench.add(2)
    bench.free(bench.backends[0])
    assert not bench.add(3, waited_s=0.1)


def test_the_pool_is_told_how_many_wait() -> None:
    bench = full()
    (backend,) = bench.backends

    def said() -> int | None:
        token = len(backend.probing.outstanding) + 1000
        return bench.pool.probe(backend, backend.registration, token, 0.0).request.sessions

    assert said() == 1
    for client in range(3):
        bench.add(client)
    assert said() == 4
    bench.waiting.leave(0)
    assert said() == 3
    run(bench.clock, 10)
    assert said() == 1


def test_it_is_told_who_has_waited_longest() -> None:
    bench = full()
    assert bench.waiting.longest_s() == 0
    bench.add(1)
    run(bench.clock, 1)
    bench.add(2)
    assert bench.waiting.longest_s() == pytest.approx(1)


def test_after_a_stop_nobody_waits() -> None:
    bench = full(2)
    bench.add(1)
    bench.add(2, exclude=(bench.backends[0],))
    bench.waiting.stop()
    assert sorted(bench.names) == [1, 2]
    assert not bench.add(3)
    assert bench.clock.getDelayedCalls() == []


class QueueMachine(RuleBasedStateMachine):
    """Clients come, fail, leave and are served, while back-ends fill, are freed, drained and limited."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(3, queue=3)
        self.count = 0
        self.leases: list[Backend] = []
        self.there: list[int] = []

    def collect(self) -> None:
        for client, got, _ in self.bench.called:
            if client in self.there:
                self.there.remove(client)
            if got is not None:
                self.leases.append(got)
        self.bench.called.clear()

    @rule(excluded=st.sets(st.integers(0, 2), max_size=2), waited_s=st.sampled_from([None, 0.0, 1.0]))
    def come(self, excluded: set[int], waited_s: float | None) -> None:
        self.count += 1
        exclude = tuple(self.bench.backends[number] for number in excluded)
        if not self.bench.waiting.goes_first() and (got := self.bench.take(*exclude)) is not None:
            self.leases.append(got)
        elif self.bench.add(self.count, exclude, waited_s if exclude else None):
            self.there.append(self.count)

    @precondition(lambda self: bool(self.there))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.there))
        self.there.remove(client)
        self.bench.waiting.leave(client)

    @precondition(lambda self: bool(self.leases))
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.bench.free(self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1))))

    @rule(number=st.integers(0, 2), administration=st.sampled_from(list(Administration)))
    def administer(self, number: int, administration: Administration) -> None:
        backend = self.bench.backends[number]
        self.bench.publish(self.bench.pool.administer(backend, administration, self.bench.clock.seconds()))

    @rule(limit=st.sampled_from([None, 1, 1, 2]))
    def limit(self, limit: int | None) -> None:
        self.bench.publish(self.bench.pool.limit_each(limit, self.bench.clock.seconds()))

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        run(self.bench.clock, seconds)
        self.bench.clock.advance(0)
        self.collect()

    @invariant()
    def they_are_counted(self) -> None:
        waiting = self.bench.waiting
        lines = waiting._lines()
        assert all(lines)
        assert waiting.waiting == sum(map(len, lines)) == len(self.there)
        assert set(self.there) == {client for line in lines for client in line}
        assert self.bench.pool._eligibility.waiting == waiting.waiting

    @invariant()
    def one_timer_runs_while_any_waits(self) -> None:
        assert len(self.bench.clock.getDelayedCalls()) == bool(self.there)

    @invariant()
    def none_waits_beyond_its_time_and_none_while_it_can_be_served(self) -> None:
        self.bench.clock.advance(0)
        for _ in range(10):
            self.bench.clock.advance(PAUSE_S)
        self.collect()
        waiting = self.bench.waiting
        for line in waiting._lines():
            assert not waiting._may_serve(next(iter(line.values())).exclude)
            waits = [each.since for each in line.values()]
            assert waits == sorted(waits)
            assert self.bench.clock.seconds() - waits[0] <= 5.0 + 2 * PAUSE_S


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
