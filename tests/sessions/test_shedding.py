"""Sessions that an operator moves away from a back-end, little by little."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rproxy.pool.backend import Backend
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.sessions.shedding import AT_ONCE, LOOK_S, Shedding
from tests.fakes import LinkedSessions, pool_with, run, turn


class Bench:
    def __init__(self, sessions: int = 0) -> None:
        self.clock = Clock()
        self.clock.rightNow = 100.0
        self.pool = pool_with(2)
        self.linked = LinkedSessions(Service(self.pool, self.clock))
        self.done: list[tuple[Backend, int]] = []
        self.shedding = Shedding(self.clock, self.linked.slices)
        self.backend, self.other = self.pool
        self.sessions = [self.open() for _ in range(sessions)]

    def begin(self, per_s: float, *, other: bool = False) -> None:
        backend = self.other if other else self.backend
        self.shedding.begin(backend, per_s, lambda cut: self.done.append((backend, cut)))

    def open(self, backend: Backend | None = None) -> Session:
        session = self.linked.open()
        session.backend = backend or self.backend
        session.connected_at = self.clock.seconds()
        link = self.linked.links[session]
        cut = link.on_cut

        def end(ending: Ending) -> None:
            session.backend = None
            cut(ending)

        link.on_cut = end
        return session

    def move(self, *sessions: Session) -> None:
        for session in sessions:
            self.linked.links[session].up += 1

    def shed(self, seconds: float, *moving: Session) -> list[Session]:
        """Let time pass, while some sessions carry bytes; returns those that are cut meanwhile."""
        before = len(self.linked.cut)
        for _ in range(round(seconds * 8)):
            self.move(*(each for each in moving if each in self.linked.links))
            run(self.clock, 0.125)
        assert {ending for _, ending in self.linked.cut} <= {Ending.SHED}
        return [session for session, _ in self.linked.cut[before:]]


def test_they_are_cut_one_after_the_other_the_oldest_first_and_then_it_is_over() -> None:
    bench = Bench(5)
    bench.begin(2)
    assert bench.shed(LOOK_S) == [bench.sessions[0]]
    assert bench.shed(1) == bench.sessions[1:3]
    assert bench.shed(1) == bench.sessions[3:5]
    bench.shed(1)
    assert bench.done == [(bench.backend, 5)]
    assert bench.clock.getDelayedCalls() == []


def test_those_that_are_idle_go_first_for_however_long_they_have_been() -> None:
    bench = Bench(4)
    busy, later, first, second = bench.sessions
    bench.begin(0.5)
    assert bench.shed(0.75, busy, later) == []
    assert bench.shed(0.25, busy) == [first]
    assert bench.shed(2, busy) == [second]
    assert bench.shed(2, busy) == [later]
    assert bench.shed(2, busy) == [busy]


def test_only_that_back_ends_sessions_end_and_none_that_came_later() -> None:
    bench = Bench(2)
    bench.open(bench.other)
    waiting = bench.open()
    waiting.backend = None
    bench.begin(100)
    bench.clock.advance(0.1)
    bench.open()
    assert bench.shed(5) == bench.sessions
    assert bench.done == [(bench.backend, 2)]


@pytest.mark.parametrize("per_s", [0.5, 3, 50, 1000, 10_000])
def test_the_rate_is_kept(per_s: float) -> None:
    bench = Bench(400)
    bench.begin(per_s)
    bench.shed(LOOK_S)
    for _ in range(4):
        left = len(bench.linked.links)
        assert min(per_s - 1, left) <= len(bench.shed(1)) <= per_s + 1


def test_few_are_cut_in_one_turn() -> None:
    bench = Bench(300)
    bench.begin(1000)
    while len(bench.linked.links) > 0:
        before = len(bench.linked.cut)
        turn(bench.clock)
        assert len(bench.linked.cut) - before <= AT_ONCE
        bench.clock.rightNow += 0.001


def test_those_that_end_by_themselves_are_not_cut_and_do_not_count() -> None:
    bench = Bench(3)
    bench.begin(1)
    assert bench.shed(LOOK_S) == bench.sessions[:1]
    gone = bench.sessions[1]
    del bench.linked.links[gone]
    gone.backend = None
    assert bench.shed(1) == bench.sessions[2:]
    bench.shed(2)
    assert bench.done == [(bench.backend, 2)]


def test_it_can_be_ended_and_begun_again_with_another_rate() -> None:
    bench = Bench(10)
    bench.begin(1)
    assert len(bench.shed(LOOK_S)) == 1
    bench.begin(2)
    assert len(bench.shed(2)) in (3, 4)
    cut = len(bench.linked.cut)
    assert bench.shedding.end(bench.backend) == cut
    assert bench.shedding.end(bench.backend) is None
    assert bench.clock.getDelayedCalls() == []
    assert bench.shed(5) == []
    bench.begin(100)
    assert len(bench.shed(3)) == 10 - cut


def test_another_rate_holds_at_once_however_slow_the_one_before_was() -> None:
    bench = Bench(30)
    bench.begin(0.01)
    assert len(bench.shed(2 * LOOK_S)) == 1
    bench.begin(10)
    assert len(bench.shed(2)) in (19, 20)


def test_several_back_ends_are_shed_beside_each_other() -> None:
    bench = Bench(4)
    others = [bench.open(bench.other) for _ in range(4)]
    bench.begin(1)
    bench.begin(2, other=True)
    cut = bench.shed(4)
    assert (len({*cut} & {*bench.sessions}), {*others} - {*cut}) == (4, set())
    bench.shed(2)
    assert sorted(cut for _, cut in bench.done) == [4, 4]
    bench.begin(1, other=True)
    bench.shedding.stop()
    bench.shedding.stop()
    assert bench.clock.getDelayedCalls() == []


def test_one_without_sessions_is_done_after_a_look() -> None:
    bench = Bench()
    bench.begin(1)
    bench.shed(LOOK_S + 0.1)
    assert bench.done == [(bench.backend, 0)]
    assert bench.clock.getDelayedCalls() == []
