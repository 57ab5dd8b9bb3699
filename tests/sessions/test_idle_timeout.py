"""Timeouts of sessions that carry nothing, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from rproxy.sessions.endings import Ending
from rproxy.sessions.idle_timeout import SWEEPS, HalfCloseTimeout, IdleTimeout
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from tests.fakes import LinkedSessions, logged, pool_with, run, texts

LIMIT_S = 16.0
SWEEP_S = LIMIT_S / SWEEPS
MARGIN_S = 1e-6


class Bench:
    def __init__(self, limit_s: float = LIMIT_S, *, half_closed: bool = False, reader_s: float = 0) -> None:
        self.clock = Clock()
        self.linked = LinkedSessions(Service(pool_with(1), self.clock))
        self.links = self.linked.links
        self.timeout = (
            HalfCloseTimeout(self.clock, self.linked.slices, limit_s, reader_s)
            if half_closed
            else IdleTimeout(self.clock, self.linked.slices, limit_s)
        )
        self.timeout.start()

    def session(self) -> Session:
        return self.linked.open()

    def pass_s(self, seconds: float) -> None:
        run(self.clock, seconds)

    def ended_at(self, session: Session, within_s: float = 10 * LIMIT_S) -> float:
        """When the session is cut."""
        end = self.clock.seconds() + within_s
        while session in self.links:
            assert self.clock.seconds() < end
            self.pass_s(SWEEP_S / 8)
        return self.clock.seconds()

    @property
    def endings(self) -> list[Ending]:
        return [ending for _, ending in self.linked.cut]


@pytest.mark.parametrize("begun_s", [0.0, 0.01, 0.5, 0.99, 1.0, 7.3])
@pytest.mark.parametrize(("half_closed", "ending"), [(False, Ending.IDLE), (True, Ending.HALF_CLOSED)])
def test_a_silent_session_is_cut_after_the_limit_and_at_most_a_sixteenth_late(
    begun_s: float, half_closed: bool, ending: Ending
) -> None:
    bench = Bench(half_closed=half_closed)
    bench.pass_s(begun_s)
    session = bench.session()
    if half_closed:
        session.half_close()
    lasted = bench.ended_at(session) - begun_s
    assert LIMIT_S - MARGIN_S <= lasted <= LIMIT_S * (1 + 1 / 16) + SWEEP_S / 8
    assert bench.linked.cut == [(session, ending)]


@pytest.mark.parametrize("moved_s", [0.3, 5.0, 15.99, 16.0])
def test_the_last_byte_counts_and_not_the_first(moved_s: float) -> None:
    bench = Bench()
    session = bench.session()
    bench.pass_s(moved_s)
    bench.links[session].up += 1
    lasted = bench.ended_at(session) - moved_s
    assert LIMIT_S - MARGIN_S <= lasted <= LIMIT_S * (1 + 1 / 16) + SWEEP_S / 8


def test_a_session_that_carries_a_byte_now_and_then_goes_on() -> None:
    bench = Bench()
    session = bench.session()
    for _ in range(10):
        bench.pass_s(LIMIT_S - 0.1)
        bench.links[session].up += 1
    assert bench.endings == []


@pytest.mark.parametrize("half_closed", [False, True])
def test_each_timeout_is_for_its_own_kind_of_session(half_closed: bool) -> None:
    bench = Bench(half_closed=half_closed)
    session = bench.session()
    if not half_closed:
        session.half_close()
    bench.pass_s(5 * LIMIT_S)
    assert bench.endings == []


def test_the_time_before_a_half_close_does_not_count() -> None:
    bench = Bench(half_closed=True)
    session = bench.session()
    idle = IdleTimeout(bench.clock, bench.linked.slices, 10 * LIMIT_S)
    idle.start()
    bench.pass_s(9 * LIMIT_S)
    session.half_close()
    lasted = bench.ended_at(session) - 9 * LIMIT_S
    assert LIMIT_S - MARGIN_S <= lasted <= LIMIT_S * (1 + 1 / 16) + SWEEP_S / 8
    idle.stop()


def read_every(seconds: float) -> Callable[[Bench, Session], None]:
    def read(bench: Bench, session: Session) -> None:
        bench.pass_s(seconds)
        bench.links[session].held -= 1000

    return read


@pytest.mark.parametrize("every_s", [SWEEP_S / 2, SWEEP_S, 3 * SWEEP_S, LIMIT_S / 2, LIMIT_S - SWEEP_S])
def test_a_peer_that_takes_what_the_kernel_holds_for_it_is_not_silent(every_s: float) -> None:
    """Receive windows open in steps: progress within the limit is enough, it need not be seen by every sweep."""
    bench = Bench()
    session = bench.session()
    bench.links[session].held = 1_000_000
    started = bench.clock.seconds()
    while bench.clock.seconds() - started < 6 * LIMIT_S:
        read_every(every_s)(bench, session)
        assert bench.endings == [], f"after {bench.clock.seconds() - started} s"


def test_a_peer_that_has_stopped_to_take_what_is_held_for_it_is_cut_in_time() -> None:
    """Data that the kernel still holds is no progress."""
    bench = Bench()
    session = bench.session()
    bench.links[session].held = 1000
    lasted = bench.ended_at(session)
    assert LIMIT_S - MARGIN_S <= lasted <= LIMIT_S * (1 + 1 / 16) + SWEEP_S / 8


def test_a_peer_that_has_taken_all_that_was_held_is_cut_a_limit_later() -> None:
    bench = Bench()
    session = bench.session()
    bench.links[session].held = 10_000
    while bench.links[session].held:
        read_every(SWEEP_S)(bench, session)
    bench.ended_at(session, within_s=2 * LIMIT_S)


def waiting(bench: Bench, *, half_closed: bool = True) -> Session:
    """A session one side of which is alive and does not read."""
    session = bench.session()
    if half_closed:
        session.half_close()
    bench.links[session].held = 1000
    bench.links[session].has_waiting_reader = True
    return session


@pytest.mark.parametrize("reader_s", [5 * LIMIT_S, 1.1 * LIMIT_S])
def test_a_half_closed_session_whose_reader_has_stopped_is_cut_only_as_an_idle_one(reader_s: float) -> None:
    bench = Bench(half_closed=True, reader_s=reader_s)
    session = waiting(bench)
    with logged() as events:
        lasted = bench.ended_at(session)
        bench.pass_s(SWEEP_S)
    assert reader_s - MARGIN_S <= lasted <= reader_s + 2 * SWEEP_S + SWEEP_S / 8
    assert bench.endings == [Ending.IDLE]
    assert texts(events) == [f"1 session(s) closed: idle and silent for {reader_s:g} s"]


def test_a_reader_that_has_stopped_is_waited_for_for_ever_without_an_idle_timeout() -> None:
    bench = Bench(half_closed=True, reader_s=0)
    waiting(bench)
    bench.pass_s(50 * LIMIT_S)
    assert bench.endings == []


@pytest.mark.parametrize("reader_s", [LIMIT_S / 4, LIMIT_S])
def test_a_reader_that_has_stopped_gets_no_less_time_than_others(reader_s: float) -> None:
    bench = Bench(half_closed=True, reader_s=reader_s)
    lasted = bench.ended_at(waiting(bench))
    assert LIMIT_S - MARGIN_S <= lasted <= LIMIT_S * (1 + 1 / 16) + SWEEP_S / 8
    assert bench.endings == [Ending.HALF_CLOSED]


def test_a_reader_that_goes_on_and_then_falls_silent_is_cut_a_limit_later() -> None:
    bench = Bench(half_closed=True, reader_s=10 * LIMIT_S)
    session = waiting(bench)
    bench.pass_s(5 * LIMIT_S)
    bench.links[session].held = 0
    bench.links[session].has_waiting_reader = False
    lasted = bench.ended_at(session) - 5 * LIMIT_S
    assert LIMIT_S - MARGIN_S <= lasted <= LIMIT_S * (1 + 1 / 16) + SWEEP_S / 8
    assert bench.endings == [Ending.HALF_CLOSED]


def test_a_reader_that_has_stopped_and_then_vanishes_is_cut_at_once() -> None:
    bench = Bench(half_closed=True, reader_s=10 * LIMIT_S)
    session = waiting(bench)
    bench.pass_s(5 * LIMIT_S)
    bench.links[session].has_waiting_reader = False
    bench.pass_s(2 * SWEEP_S)
    assert bench.endings == [Ending.HALF_CLOSED]


def test_an_open_session_whose_reader_has_stopped_is_idle() -> None:
    bench = Bench()
    lasted = bench.ended_at(waiting(bench, half_closed=False))
    assert LIMIT_S - MARGIN_S <= lasted <= LIMIT_S * (1 + 1 / 16) + SWEEP_S / 8
    assert bench.endings == [Ending.IDLE]


def test_the_sessions_of_one_sweep_are_one_line() -> None:
    bench = Bench()
    sessions = [bench.session() for _ in range(3)]
    with logged() as events:
        bench.pass_s(2 * LIMIT_S)
    assert {session for session, _ in bench.linked.cut} == set(sessions)
    assert texts(events) == ["3 session(s) closed: idle and silent for 16 s"]


def test_sweeps_that_find_nothing_say_nothing() -> None:
    bench = Bench()
    with logged() as events:
        bench.pass_s(3 * LIMIT_S)
    assert list(events) == []


def test_an_error_in_a_sweep_does_not_end_the_sweeps() -> None:
    bench = Bench()
    bench.session()
    bench.linked.error = ValueError("a bug")
    for _ in range(2):
        with pytest.raises(ValueError, match="a bug"):
            bench.pass_s(SWEEP_S)
    bench.linked.error = None
    bench.pass_s(2 * LIMIT_S)
    assert bench.endings == [Ending.IDLE]


def test_a_cut_that_raises_does_not_keep_the_other_silent_sessions() -> None:
    bench = Bench()
    broken, *others = [bench.session() for _ in range(3)]
    cut = bench.links[broken].on_cut

    def cut_and_raise(ending: Ending) -> None:
        cut(ending)
        raise ValueError("a bug")

    bench.links[broken].on_cut = cut_and_raise
    with pytest.raises(ValueError, match="a bug"):
        bench.pass_s(2 * LIMIT_S)
    bench.pass_s(2 * SWEEP_S)
    assert {session for session, _ in bench.linked.cut} == {broken, *others}


def test_a_tiny_limit_does_not_sweep_all_the_time() -> None:
    bench = Bench(0.01)
    with logged():
        session = bench.session()
        bench.pass_s(1)
    assert session not in bench.links
    (timer,) = bench.clock.getDelayedCalls()
    assert timer.getTime() - bench.clock.seconds() <= 0.02


def test_stop_leaves_no_timer_and_may_come_first_or_twice() -> None:
    bench = Bench()
    bench.session()
    bench.pass_s(LIMIT_S / 2)
    bench.timeout.stop()
    assert bench.clock.getDelayedCalls() == []
    bench.timeout.stop()
    bench.pass_s(3 * LIMIT_S)
    assert bench.endings == []
    IdleTimeout(bench.clock, bench.linked.slices, LIMIT_S).stop()
    bench.timeout.start()
    bench.pass_s(2 * LIMIT_S)
    assert bench.endings == [Ending.IDLE]
