"""Sessions that an operator ends at once, a few in each turn of the reactor."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rproxy.sessions.endings import Ending
from rproxy.sessions.kills import AT_ONCE, Found, Kills
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.timing.work_queue import WorkQueue
from tests.fakes import LinkedSessions, pool_with, run, turn


class Bench:
    def __init__(self, sessions: int = 0) -> None:
        self.clock = Clock()
        self.pool = pool_with(2)
        self.linked = LinkedSessions(Service(self.pool, self.clock))
        self.kills = Kills(self.linked.slices, WorkQueue(self.clock))
        self.backend, self.other = self.pool
        self.sessions = [self.open() for _ in range(sessions)]

    def open(self) -> Session:
        session = self.linked.open()
        session.backend = self.backend
        return session

    def result(self, fires: Deferred[Any]) -> list[object]:
        results: list[object] = []
        fires.addCallback(results.append)
        return results

    @property
    def cut(self) -> list[Session]:
        assert {ending for _, ending in self.linked.cut} <= {Ending.KILLED}
        return [session for session, _ in self.linked.cut]


def test_the_session_of_a_number_is_cut_in_whatever_phase_it_is() -> None:
    bench = Bench(5)
    waiting = bench.sessions[4]
    waiting.backend = None
    result = bench.result(bench.kills.one(waiting.id))
    assert bench.cut == []
    run(bench.clock, 0)
    assert (bench.cut, result) == ([waiting], [Found("default", "")])
    assert bench.clock.getDelayedCalls() == []


def test_a_number_that_no_session_has_is_told() -> None:
    bench = Bench(3)
    result = bench.result(bench.kills.one(bench.sessions[-1].id + 1))
    run(bench.clock, 0)
    assert (bench.cut, result) == ([], [None])


def test_the_search_takes_a_slice_a_turn() -> None:
    bench = Bench(6)
    result = bench.result(bench.kills.one(bench.sessions[5].id))
    for _ in range(2):
        turn(bench.clock)
        assert result == []
    turn(bench.clock)
    assert result == [Found("default", "10.0.0.1:80")]


def test_all_of_a_back_end_are_cut_a_few_at_a_time() -> None:
    bench = Bench(AT_ONCE + 3)
    others = [bench.open() for _ in range(3)]
    others[0].backend, others[1].backend = bench.other, None
    result = bench.result(bench.kills.all_of(bench.backend))
    cuts = []
    while not result:
        before = len(bench.cut)
        turn(bench.clock)
        cuts.append(len(bench.cut) - before)
    assert max(cuts) == AT_ONCE
    assert (set(bench.cut), result) == ({*bench.sessions, others[2]}, [AT_ONCE + 4])


def test_those_that_end_by_themselves_meanwhile_are_not_counted() -> None:
    bench = Bench(AT_ONCE + 3)
    result = bench.result(bench.kills.all_of(bench.backend))
    while not bench.cut:
        turn(bench.clock)
    bench.sessions[-1].backend = None
    run(bench.clock, 0)
    assert result == [AT_ONCE + 2]


def test_an_error_is_told() -> None:
    bench = Bench(1)
    bench.linked.error = ValueError("a bug")
    failing = bench.kills.one(1)
    run(bench.clock, 0)
    failures: list[Failure] = []
    failing.addErrback(failures.append)
    assert [failure.check(ValueError) for failure in failures] == [ValueError]
