"""Sweeps over all sessions in slices, on a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Sweep
from tests.fakes import LinkedSessions, pool_with


class Bench:
    """A sweep over `sessions` in slices of two; each turn of the reactor is a `turn`."""

    def __init__(self, sessions: int) -> None:
        self.clock = Clock()
        linked = LinkedSessions(Service(pool_with(1), self.clock))
        self.sessions = [linked.open() for _ in range(sessions)]
        self.visited: list[Session] = []
        self.done = 0
        self.broken: Session | None = None
        self.sweep = Sweep(self.clock, linked.slices, self._visit, self._done)

    def _visit(self, session: Session) -> None:
        self.visited.append(session)
        if session is self.broken:
            raise ValueError("a bug")

    def _done(self) -> None:
        self.done += 1

    def turn(self) -> int:
        """Sessions visited in one turn of the reactor, which runs only what is due when it begins."""
        before = len(self.visited)
        call: Any
        (call,) = [call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()]
        run = call.func
        call.cancel()
        run()
        return len(self.visited) - before


def test_every_session_is_visited_once_and_few_in_one_turn() -> None:
    bench = Bench(5)
    bench.sweep.begin()
    turns = [len(bench.visited)] + [bench.turn() for _ in range(3)]
    assert (turns, bench.visited, bench.done) == ([2, 2, 1, 0], bench.sessions, 1)
    assert bench.clock.getDelayedCalls() == []


def test_sessions_that_end_during_a_sweep_are_not_visited() -> None:
    bench = Bench(6)
    bench.sweep.begin()
    for session in bench.sessions[2:5]:
        session.link.cut(Ending.IDLE)
    bench.clock.advance(0)
    assert bench.visited == [*bench.sessions[:2], bench.sessions[5]]


def test_an_error_costs_one_slice_and_the_sweep_goes_on() -> None:
    bench = Bench(6)
    bench.broken = bench.sessions[2]
    bench.sweep.begin()
    with pytest.raises(ValueError, match="a bug"):
        bench.clock.advance(0)
    bench.clock.advance(0)
    assert bench.visited == [session for session in bench.sessions if session is not bench.sessions[3]]
    assert bench.done == 1


def test_a_sweep_that_is_under_way_is_not_begun_again() -> None:
    bench = Bench(6)
    bench.sweep.begin()
    bench.sweep.begin()
    bench.clock.advance(0)
    assert (bench.visited, bench.done) == (bench.sessions, 1)


def test_sweeps_come_as_often_as_is_asked_for_and_not_at_once() -> None:
    bench = Bench(1)
    bench.sweep.repeat(10)
    bench.clock.pump([9.9, 0.1, 9.9, 0.1])
    assert (len(bench.visited), bench.done) == (2, 2)


def test_no_sessions_at_all_are_swept_too() -> None:
    bench = Bench(0)
    bench.sweep.begin()
    assert bench.done == 1


def test_stop_ends_a_sweep_under_way_and_those_to_come() -> None:
    bench = Bench(6)
    bench.sweep.repeat(10)
    bench.sweep.begin()
    bench.sweep.stop()
    bench.sweep.stop()
    assert bench.clock.getDelayedCalls() == []
    bench.clock.advance(60)
    assert (len(bench.visited), bench.done) == (2, 0)
    bench.sweep.begin()
    bench.clock.advance(0)
    assert bench.visited[2:] == bench.sessions
