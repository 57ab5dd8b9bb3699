"""Which clients wait for a back-end, for how long, and in which order they are called back."""

from __future__ import annotations

from twisted.internet.task import Clock

from rproxy.pool.events import EligibilityChanged, Events
from rproxy.pool.pool import Pool
from rproxy.pool.states import Administration
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.wait_queue import AT_ONCE, PAUSE_S, WaitQueue
from tests.fakes import confirm, logged, pool_of, pool_with, registered, run


class Bench:
    def __init__(self, *, limit_s: float = 5.0, pool: Pool | None = None, queue: int = 10, full_s: float = 2.0) -> None:
        self.clock = Clock()
        self.pool = pool_of() if pool is None else pool
        self.terms = ServiceTerms(wait_s=limit_s, queue=queue, queue_timeout_s=full_s)
        self.waiting = WaitQueue(self.clock, self.pool, lambda: self.terms)
        self.called: list[tuple[int, float]] = []

    def add(self, client: int) -> bool:
        return self.waiting.add(client, lambda: self.called.append((client, self.clock.seconds())))

    def come(self, number: int = 1) -> None:
        self.publish(confirm(self.pool, registered(self.pool, f"10.0.0.{number}"), token=number))

    def publish(self, events: Events) -> None:
        for event in events:
            if isinstance(event, EligibilityChanged):
                self.waiting.eligibility_changed(event)

    @property
    def names(self) -> list[int]:
        return [client for client, _ in self.called]


def test_waiting_clients_are_called_when_their_time_is_over_by_one_timer() -> None:
    bench = Bench()
    assert all(bench.add(client) for client in range(3))
    bench.clock.advance(1)
    assert bench.add(3)
    assert len(bench.clock.getDelayedCalls()) == 1
    run(bench.clock, 10)
    assert bench.called == [(0, 5), (1, 5), (2, 5), (3, 6)]
    assert bench.clock.getDelayedCalls() == []


def test_all_are_called_in_order_in_the_turn_after_a_back_end_has_become_eligible() -> None:
    bench = Bench()
    for client in range(3):
        bench.add(client)
    bench.come()
    assert bench.called == []
    bench.clock.advance(0)
    assert bench.called == [(0, 0), (1, 0), (2, 0)]
    assert bench.clock.getDelayedCalls() == []


def test_many_are_called_in_slices() -> None:
    bench = Bench()
    for client in range(2 * AT_ONCE + 1):
        bench.add(client)
    bench.come()
    bench.clock.advance(0)
    assert bench.names == list(range(AT_ONCE))
    bench.clock.advance(PAUSE_S)
    assert bench.names == list(range(2 * AT_ONCE))
    bench.clock.advance(PAUSE_S)
    assert bench.names == list(range(2 * AT_ONCE + 1))


def test_clients_that_come_while_others_are_being_called_wait_for_their_turn() -> None:
    bench = Bench()
    for client in range(AT_ONCE + 1):
        bench.add(client)
    bench.come()
    bench.clock.advance(0)
    assert bench.add(1000)
    run(bench.clock, 1)
    assert bench.names[-2:] == [AT_ONCE, 1000]


def test_when_the_back_end_goes_down_again_the_remaining_clients_wait_on() -> None:
    bench = Bench()
    for client in range(2 * AT_ONCE):
        bench.add(client)
    bench.come()
    bench.clock.advance(0)
    bench.publish(bench.pool.administer(bench.pool.eligible[0], Administration.DRAIN, bench.clock.seconds()))
    run(bench.clock, 1)
    assert len(bench.called) == AT_ONCE
    bench.publish(bench.pool.administer(next(iter(bench.pool)), Administration.READY, bench.clock.seconds()))
    run(bench.clock, 0.1)
    assert len(bench.called) == 2 * AT_ONCE


def test_no_client_waits_while_a_back_end_is_eligible_or_if_waiting_is_off() -> None:
    assert not Bench(pool=pool_with(1)).add(1)
    assert not Bench(limit_s=0).add(1)


def test_a_client_that_leaves_is_not_called_and_the_last_one_cancels_the_timer() -> None:
    bench = Bench()
    for client in range(3):
        bench.add(client)
    bench.waiting.leave(1)
    bench.waiting.leave(1)
    bench.waiting.leave(7)
    bench.come()
    bench.clock.advance(0)
    assert bench.names == [0, 2]
    bench = Bench()
    bench.add(0)
    bench.waiting.leave(0)
    assert bench.clock.getDelayedCalls() == []


def test_an_exception_of_one_callback_does_not_keep_the_others_from_being_called() -> None:
    bench = Bench()

    def fail() -> None:
        raise ValueError("a bug")

    bench.waiting.add("bad", fail)
    bench.add(1)
    bench.come()
    with logged() as events:
        bench.clock.advance(0)
    assert bench.names == [1]
    assert len(events) == 1


def test_a_stop_calls_all_at_once_and_no_client_waits_afterwards() -> None:
    bench = Bench()
    for client in range(100):
        bench.add(client)
    bench.waiting.stop()
    assert bench.names == list(range(100))
    assert not bench.add(1)
    assert bench.clock.getDelayedCalls() == []
