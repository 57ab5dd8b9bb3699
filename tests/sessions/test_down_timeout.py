"""Sessions of back-ends that have fallen silent, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from rproxy.pool.events import PanicChanged, Transitioned
from rproxy.pool.health import FALL
from rproxy.pool.states import Administration, Event, State
from rproxy.sessions.down_timeout import EVERY_S, LIMIT_S, DownTimeout
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from tests.fakes import LinkedSessions, logged, pool_with, run, texts

WITHIN_S = 30.0


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.pool = pool_with(2)
        self.one, self.other = self.pool
        self.service = Service(self.pool, self.clock)
        self.linked = LinkedSessions(self.service)
        self.down_timeout = DownTimeout(self.clock, self.linked.slices)

    def session(self, *, of_other: bool = False) -> Session:
        session = self.linked.open()
        assert session.choose_backend() is self.one
        session.connected()
        if of_other:
            session.backend = self.other
        return session

    def becomes(self, state: State, *, refusing: bool = False) -> None:
        """The first back-end goes to `state`."""
        before, self.one.state, self.one.health.refusing = self.one.state, state, refusing
        self.down_timeout.transitioned(Transitioned(self.one, before, state, Event.SILENT, "for a test"))

    def panics(self, *, panicking: bool = True) -> None:
        self.down_timeout.panic_changed(PanicChanged(panicking))

    def pass_s(self, seconds: float) -> None:
        run(self.clock, seconds)

    @property
    def timers(self) -> int:
        return len(self.clock.getDelayedCalls())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_sessions_that_move_nothing_end_soon_after_their_back_end_has_fallen_silent(bench: Bench) -> None:
    sessions, others = [bench.session() for _ in range(3)], bench.session(of_other=True)
    bench.becomes(State.DOWN)
    bench.pass_s(LIMIT_S)
    assert bench.linked.cut == []
    with logged() as events:
        bench.pass_s(WITHIN_S - LIMIT_S)
    assert bench.linked.cut == [(session, Ending.BACKEND_DOWN) for session in sessions]
    assert others in bench.linked.links
    assert texts(events) == ["3 session(s) closed: their back-end is down, and nothing moved for 25 s"]


def test_a_session_that_moves_something_stays_until_it_stops(bench: Bench) -> None:
    session = bench.session()
    bench.becomes(State.DOWN)
    for _ in range(5):
        bench.pass_s(LIMIT_S - EVERY_S)
        bench.linked.links[session].up += 1
    assert bench.linked.cut == []
    bench.pass_s(WITHIN_S)
    assert bench.linked.cut == [(session, Ending.BACKEND_DOWN)]


def test_data_that_no_host_acknowledges_is_no_progress(bench: Bench) -> None:
    session = bench.session()
    bench.becomes(State.DOWN)
    for _ in range(int(WITHIN_S)):
        bench.pass_s(1)
        if session in bench.linked.links:
            bench.linked.links[session].up += 1
            bench.linked.links[session].held += 1
    assert bench.linked.cut == [(session, Ending.BACKEND_DOWN)]


@pytest.mark.parametrize("state", [State.UP, State.SUSPECT])
def test_a_back_end_that_is_up_again_keeps_its_sessions(bench: Bench, state: State) -> None:
    bench.session()
    bench.becomes(State.DOWN)
    bench.pass_s(LIMIT_S - 1)
    bench.becomes(state)
    bench.pass_s(10 * LIMIT_S)
    assert bench.linked.cut == []
    assert bench.timers == 0


def test_the_time_before_a_back_end_was_up_in_between_does_not_count(bench: Bench) -> None:
    bench.session()
    bench.becomes(State.DOWN)
    bench.pass_s(LIMIT_S - 1)
    bench.becomes(State.UP)
    bench.pass_s(2 * EVERY_S)
    bench.becomes(State.DOWN)
    bench.pass_s(LIMIT_S - 1)
    assert bench.linked.cut == []


def test_one_in_maintenance_keeps_its_sessions_and_they_have_the_whole_time_afterwards(bench: Bench) -> None:
    session = bench.session()
    bench.becomes(State.DOWN)
    bench.pass_s(LIMIT_S - 5)
    bench.pool.administer(bench.one, Administration.MAINT, bench.clock.seconds())
    bench.pass_s(10 * LIMIT_S)
    bench.pool.administer(bench.one, Administration.DRAIN, bench.clock.seconds())
    bench.pass_s(LIMIT_S)
    assert bench.linked.cut == []
    bench.pass_s(WITHIN_S - LIMIT_S)
    assert bench.linked.cut == [(session, Ending.BACKEND_DOWN)]


def test_a_back_end_that_is_forgotten_while_it_is_down_is_still_silent(bench: Bench) -> None:
    bench.session()
    bench.becomes(State.DOWN)
    bench.becomes(State.FORGOTTEN)
    bench.pass_s(WITHIN_S)
    assert len(bench.linked.cut) == 1


@pytest.mark.parametrize("state", [State.FORGOTTEN, State.SUSPECT])
def test_an_unregister_or_a_lost_probe_ends_no_session(bench: Bench, state: State) -> None:
    bench.session()
    bench.becomes(state)
    assert bench.timers == 0
    bench.pass_s(2 * WITHIN_S)
    assert bench.linked.cut == []


def test_refused_connects_end_no_session_unless_the_agent_is_silent_as_well(bench: Bench) -> None:
    """Connects to a host that has vanished fail, too."""
    session = bench.session()
    bench.becomes(State.DOWN, refusing=True)
    bench.one.health.misses = FALL - 1
    bench.pass_s(5 * WITHIN_S)
    assert bench.linked.cut == []
    bench.one.health.misses = FALL
    bench.pass_s(LIMIT_S)
    assert bench.linked.cut == []
    bench.pass_s(WITHIN_S - LIMIT_S)
    assert bench.linked.cut == [(session, Ending.BACKEND_DOWN)]


def test_a_back_end_whose_agent_speaks_again_keeps_its_sessions(bench: Bench) -> None:
    bench.session()
    bench.becomes(State.DOWN, refusing=True)
    bench.one.health.misses = FALL
    bench.pass_s(LIMIT_S - EVERY_S)
    bench.one.health.misses = 0
    bench.pass_s(5 * WITHIN_S)
    assert bench.linked.cut == []


@pytest.mark.parametrize(
    "order",
    [
        [Bench.panics, lambda bench: bench.becomes(State.DOWN)],
        [lambda bench: bench.becomes(State.DOWN), Bench.panics],
    ],
    ids=["panic-first", "down-first"],
)
def test_in_a_panic_sessions_stay_whose_host_answers(bench: Bench, order: list[Callable[[Bench], None]]) -> None:
    alive, dead = bench.session(), bench.session()
    for change in order:
        change(bench)
    bench.pass_s(2 * EVERY_S)
    assert [bench.linked.links[session].probes for session in (alive, dead)] == [1, 1]
    bench.linked.links[dead].unheard_s = 1000
    bench.pass_s(10 * WITHIN_S)
    assert bench.linked.cut == [(dead, Ending.BACKEND_DOWN)]
    bench.panics(panicking=False)  # as when all have been forgotten
    bench.pass_s(10 * WITHIN_S)
    assert bench.linked.cut[1:] == []
    bench.becomes(State.UP)
    bench.becomes(State.DOWN)
    bench.pass_s(WITHIN_S)
    assert bench.linked.cut[1:] == [(alive, Ending.BACKEND_DOWN)]


def test_a_panic_counts_even_if_it_ends_before_the_next_sweep(bench: Bench) -> None:
    bench.session()
    bench.becomes(State.DOWN)
    bench.panics()
    bench.panics(panicking=False)
    bench.pass_s(10 * WITHIN_S)
    assert bench.linked.cut == []


def test_nothing_is_kept_of_sessions_that_have_ended(bench: Bench) -> None:
    session = bench.session()
    bench.becomes(State.DOWN)
    bench.pass_s(2 * EVERY_S)
    assert bench.down_timeout._seen
    del bench.linked.links[session]
    session.ended(Ending.CLOSED)
    bench.pass_s(2 * EVERY_S)
    assert (bench.down_timeout._seen, bench.timers) == ({}, 0)
    other = bench.session()
    bench.becomes(State.DOWN)
    bench.pass_s(WITHIN_S)
    assert bench.linked.cut == [(other, Ending.BACKEND_DOWN)]


def test_a_back_end_without_sessions_costs_nothing(bench: Bench) -> None:
    bench.becomes(State.DOWN)
    assert bench.timers == 0


def test_stop_leaves_no_timer(bench: Bench) -> None:
    bench.session()
    bench.becomes(State.DOWN)
    bench.pass_s(EVERY_S)
    bench.down_timeout.stop()
    bench.down_timeout.stop()
    assert bench.timers == 0
