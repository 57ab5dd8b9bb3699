"""A session's choices and accounts, on plain memory: no transport, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from rproxy.carrying.session import CONNECT_TIMEOUT_S, TRIES_MAX, Balancer, Ending, Session
from rproxy.monitoring.sampler import Load
from rproxy.pool.backend import Backend
from rproxy.pool.table import Table
from rproxy.scoring.formula import SATURATED
from tests.fakes import CountingPolicy, confirm, logged, registered, table_with, texts

TOTAL_S = 5.0
"""What a client waits at most."""


class Bench:
    def __init__(self, up: int = 3, *, trace: bool = False, saturation: float | None = None) -> None:
        self.clock = Clock()
        self.table = table_with(up)
        self.policy = CountingPolicy()
        self.balancer = Balancer(self.table, self.policy, self.clock.seconds, saturation=saturation, trace=trace)

    def open(self) -> Session:
        return self.balancer.open("the client")

    def connected(self) -> Session:
        session = self.open()
        assert session.next() is not None
        session.connected()
        return session

    def told(self, event: str) -> int:
        return self.policy.told[event].total()

    @property
    def counts(self) -> list[tuple[int, int, int]]:
        return [(each.pending, each.established, each.total) for each in self.table]


def taken(session: Session) -> Backend:
    backend = session.next()
    assert backend is not None
    return backend


def test_a_choice_is_the_policys_and_counts_as_pending_until_connected() -> None:
    bench = Bench()
    session = bench.open()
    backend = taken(session)
    assert (backend.address, session.backend) == ("10.0.0.1", backend)
    assert bench.counts == [(1, 0, 0), (0, 0, 0), (0, 0, 0)]
    session.connected()
    assert bench.counts == [(0, 1, 1), (0, 0, 0), (0, 0, 0)]
    session.ended(Ending.CLOSED)
    assert bench.counts == [(0, 0, 1), (0, 0, 0), (0, 0, 0)]
    assert bench.balancer.endings == {Ending.CLOSED: 1}
    assert [bench.told(event) for event in ("opened", "closed", "failed")] == [1, 1, 0]


def test_opening_a_session_chooses_nothing_yet() -> None:
    bench = Bench()
    bench.open()
    assert bench.counts == [(0, 0, 0)] * 3


def test_each_try_goes_to_a_backend_not_tried_before_and_three_are_all() -> None:
    bench = Bench(up=5)
    session = bench.open()
    tried = []
    while (backend := session.next()) is not None:
        tried.append(backend.address)
        session.failed()
    assert tried == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert len(tried) == TRIES_MAX == 3
    assert bench.balancer.redispatches == 2
    assert session.give_up() is Ending.UNREACHABLE
    assert [bench.told(event) for event in ("opened", "failed", "closed")] == [3, 3, 3]
    assert bench.counts == [(0, 0, 0)] * 5


def test_with_fewer_backends_than_tries_none_is_tried_twice() -> None:
    session = Bench(up=1).open()
    taken(session)
    session.failed()
    assert session.next() is None


def test_a_second_try_that_connects_counts_for_the_second_backend_only() -> None:
    bench = Bench()
    session = bench.open()
    taken(session)
    session.failed()
    taken(session)
    session.connected()
    session.ended(Ending.CLOSED)
    assert bench.counts == [(0, 0, 0), (0, 0, 1), (0, 0, 0)]
    assert bench.balancer.redispatches == 1


def test_a_backend_that_comes_up_between_the_tries_is_tried() -> None:
    bench = Bench(up=1)
    session = bench.open()
    taken(session)
    session.failed()
    newcomer = registered(bench.table, "10.0.0.9")
    confirm(bench.table, newcomer, token=99)
    assert session.next() is newcomer


@pytest.mark.parametrize(("blame", "failures"), [(True, 1), (False, 0)])
def test_a_backend_is_blamed_only_for_its_own_failures(blame: bool, failures: int) -> None:
    bench = Bench()
    session = bench.open()
    backend = taken(session)
    session.failed(blame=blame)
    assert (bench.policy.told["failed"][backend], bench.policy.told["closed"][backend]) == (failures, 1)
    assert bench.counts == [(0, 0, 0)] * 3
    assert session.next() is not backend


def test_the_policy_hears_of_a_failure_before_the_closing_that_it_leads_to() -> None:
    bench = Bench()
    heard: list[str] = []
    bench.policy.failed = lambda backend: heard.append("failed")  # type: ignore[method-assign]
    bench.policy.closed = lambda backend: heard.append("closed")  # type: ignore[method-assign]
    session = bench.open()
    taken(session)
    session.failed()
    assert heard == ["failed", "closed"]


def test_tries_that_all_time_out_end_within_five_seconds() -> None:
    bench = Bench()
    session = bench.open()
    patience = []
    while session.next() is not None:
        patience.append(session.patience_s())
        bench.clock.advance(session.patience_s() + 0.05)
        session.failed()
    assert patience[:2] == [CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S] == [2, 2]
    assert 0 < patience[2] < 1
    assert bench.clock.seconds() < TOTAL_S


def test_tries_that_fail_at_once_may_each_take_two_seconds() -> None:
    session = Bench().open()
    for _ in range(TRIES_MAX):
        taken(session)
        assert session.patience_s() == 2
        session.failed()


@pytest.mark.parametrize("tries", [1, 2])
def test_no_further_try_starts_once_the_time_is_over(tries: int) -> None:
    """However long a try took: the reactor may have been blocked."""
    bench = Bench()
    session = bench.open()
    for _ in range(tries - 1):
        taken(session)
        session.failed()
    taken(session)
    bench.clock.advance(TOTAL_S)
    session.failed()
    assert session.next() is None


@pytest.mark.parametrize("elapsed_s", [0.0, 2.1, 4.0, 4.7, 4.79])
def test_a_try_that_starts_has_time_and_not_more_than_is_left(elapsed_s: float) -> None:
    bench = Bench()
    session = bench.open()
    taken(session)
    bench.clock.advance(elapsed_s)
    session.failed()
    taken(session)
    assert 0 < session.patience_s() <= min(2, TOTAL_S - elapsed_s)


@pytest.mark.parametrize(("up", "ending"), [(0, Ending.NO_BACKEND), (1, Ending.UNREACHABLE)])
def test_giving_up_says_whether_anybody_could_be_tried(up: int, ending: Ending) -> None:
    bench = Bench(up)
    session = bench.open()
    while session.next() is not None:
        session.failed()
    assert session.give_up() is ending
    assert session.ended_as is ending
    assert bench.balancer.endings == {ending: 1}


@pytest.mark.parametrize("ending", list(Ending))
def test_only_the_first_ending_counts(ending: Ending) -> None:
    bench = Bench()
    session = bench.connected()
    session.ended(ending)
    session.ended(Ending.CLOSED)
    session.ended(Ending.STOPPED)
    assert session.ended_as is ending
    assert bench.balancer.endings == {ending: 1}
    assert bench.counts[0] == (0, 0, 1)
    assert bench.told("closed") == 1


def test_a_client_that_goes_while_connecting_gives_its_backend_back() -> None:
    bench = Bench()
    session = bench.open()
    taken(session)
    session.ended(Ending.CLIENT_GONE)
    assert bench.counts == [(0, 0, 0)] * 3
    assert [bench.told(event) for event in ("opened", "closed", "failed")] == [1, 1, 0]


def test_sessions_are_counted_apart() -> None:
    bench = Bench(up=1)
    first, second = bench.connected(), bench.open()
    taken(second)
    assert bench.counts == [(1, 1, 1)]
    first.ended(Ending.CLOSED)
    assert bench.counts == [(1, 0, 1)]
    second.connected()
    second.ended(Ending.BACKEND_RESET)
    assert bench.counts == [(0, 0, 2)]


def test_a_backend_that_is_forgotten_meanwhile_is_still_given_back() -> None:
    bench = Bench(up=1)
    session = bench.connected()
    (backend,) = bench.table
    bench.table.check(backend, since=1e6, now=1e6)
    bench.table.check(backend, since=2e6, now=2e6)
    assert len(bench.table) == 0
    session.ended(Ending.CLOSED)
    assert backend.connections == 0


EVENTS: dict[str, Callable[[Session], object]] = {
    "next": Session.next,
    "connected": Session.connected,
    "failed": Session.failed,
    "failed, not blamed": lambda session: session.failed(blame=False),
    "give up": Session.give_up,
    "closed": lambda session: session.ended(Ending.CLOSED),
    "client gone": lambda session: session.ended(Ending.CLIENT_GONE),
    "stopped": lambda session: session.ended(Ending.STOPPED),
}


def legal(session: Session) -> set[str]:
    """What a carrier may tell a session now. It may end in any state, and more than once."""
    ends = {"closed", "client gone", "stopped"}
    if session.ended_as is not None or session.connected_at is not None:
        return ends
    return ends | ({"next", "give up"} if session.backend is None else {"connected", "failed", "failed, not blamed"})


@given(data=st.data(), up=st.integers(0, 4))
def test_in_every_order_of_events_what_was_taken_is_given_back_once(data: st.DataObject, up: int) -> None:
    bench = Bench(up)
    sessions = [bench.open() for _ in range(data.draw(st.integers(1, 3)))]
    with logged():
        for _ in range(data.draw(st.integers(0, 25))):
            session = data.draw(st.sampled_from(sessions))
            EVENTS[data.draw(st.sampled_from(sorted(legal(session))))](session)
            held = [each.backend for each in sessions if each.backend is not None]
            for backend in bench.table:
                assert backend.connections == held.count(backend)
        for session in sessions:
            session.ended(Ending.STOPPED)
    assert all((each.pending, each.established) == (0, 0) for each in bench.table)
    assert bench.policy.told["opened"] == bench.policy.told["closed"]
    assert bench.balancer.endings.total() == len(sessions)


def turn_away(bench: Bench, clients: int) -> None:
    for _ in range(clients):
        session = bench.open()
        while session.next() is not None:
            session.failed()
        session.give_up()


def test_clients_turned_away_are_one_warning_in_ten_seconds_with_their_number() -> None:
    bench = Bench(up=0)
    with logged() as events:
        turn_away(bench, 50)
        bench.clock.advance(9.9)
        turn_away(bench, 50)
        assert [event["count"] for event in events] == [1]
        bench.clock.advance(0.2)
        turn_away(bench, 1)
        assert [event["count"] for event in events] == [1, 100]
        bench.clock.advance(100)
        turn_away(bench, 2)
    assert [event["count"] for event in events] == [1, 100, 1]
    assert {event["log_level"] for event in events} == {LogLevel.warn}


@pytest.mark.parametrize(
    ("up", "line"),
    [
        (0, "1 client(s) turned away: no back-end is up; 0 of 1 back-ends may be used"),
        (2, "1 client(s) turned away: no back-end could be connected to; 2 of 3 back-ends may be used"),
    ],
)
def test_the_warning_says_why_and_how_many_backends_there_are(up: int, line: str) -> None:
    bench = Bench(up)
    registered(bench.table, "10.0.0.99")
    with logged() as events:
        turn_away(bench, 1)
    assert texts(events) == [line]


def test_without_a_trace_a_normal_session_logs_nothing_and_its_client_is_not_written_out() -> None:
    class Client:
        def __str__(self) -> str:
            raise AssertionError("nobody reads this")

        __repr__ = __str__

    bench = Bench()
    with logged() as events:
        session = bench.balancer.open(Client())
        taken(session)
        session.failed()
        taken(session)
        session.connected()
        session.ended(Ending.CLOSED)
    assert list(events) == []


def test_a_trace_shows_the_score_and_the_figures_of_every_eligible_backend_at_a_choice() -> None:
    """The lines of the report's figure 5.10: 10 ms, 2 connections, CPU 10 %, memory 20 %."""
    table = Table()
    for number in (1, 2):
        confirm(table, registered(table, f"10.0.0.{number}"), token=number, load=Load(10, 20, number))
    registered(table, "10.0.0.3")
    confirm(table, registered(table, "10.0.0.4"), token=4, draining=True)
    balancer = Balancer(table, CountingPolicy(), Clock().seconds, trace=True)
    with logged() as events:
        taken(balancer.open("the client"))
    scored = {event["backend"]: event for event in events if "score" in event}
    assert list(scored) == ["10.0.0.1:80", "10.0.0.2:80"]
    second = scored["10.0.0.2:80"]
    assert (second["tcp"], second["cpu"], second["memory"], second["loss"]) == (2, 10, 20, 0)
    assert second["rtt_ms"] == pytest.approx(10)
    assert second["score"] == pytest.approx(0.30 * 10 / 20 + 0.30 * 2 / 10 + 0.05 + 0.10)
    lines = texts(events)
    assert "10.0.0.2:80 score 0.360 RTT 10.000 ms TCP 2 CPU 10 % memory 20 % loss 0.00" in lines
    assert lines[-1] == "client the client -> 10.0.0.1:80"


def test_a_trace_shows_a_choice_of_nobody() -> None:
    bench = Bench(up=0, trace=True)
    with logged() as events:
        bench.open().next()
    assert texts(events) == ["client the client -> nobody"]


def test_a_trace_shows_how_a_session_ended_and_what_it_carried() -> None:
    bench = Bench(trace=True)
    session = bench.open()
    taken(session)
    session.failed()
    taken(session)
    bench.clock.advance(0.25)
    session.connected()
    session.up, session.down = 10, 2000
    bench.clock.advance(1)
    with logged() as events:
        session.ended(Ending.CLOSED)
        session.ended(Ending.CLOSED)
    (event,) = events
    assert event["log_level"] is LogLevel.debug
    assert (event["backend"], event["ending"], event["tries"]) == ("10.0.0.2:80", Ending.CLOSED, 2)
    assert (event["seconds"], event["up"], event["down"]) == (1.25, 10, 2000)


def test_what_a_trace_logs_is_at_debug_level() -> None:
    bench = Bench(trace=True)
    with logged() as events:
        bench.connected().ended(Ending.CLOSED)
    assert {event["log_level"] for event in events} == {LogLevel.debug}


@pytest.mark.parametrize(("saturation", "saturated"), [(None, False), (0.95, False), (0.89, True), (0.70, True)])
def test_the_score_shown_is_the_reports_with_the_saturation_in_use(saturation: float | None, saturated: bool) -> None:
    bench = Bench(up=0, saturation=saturation)
    backend = registered(bench.table, "10.0.0.1")
    confirm(bench.table, backend, token=1, load=Load(17, 89, 0))
    expected = SATURATED if saturated else 0.15 + 0.085 + 0.445
    assert bench.balancer.score(backend) == pytest.approx(expected)


def test_the_score_shown_counts_our_own_sessions_since_the_last_report() -> None:
    bench = Bench(up=1)
    (backend,) = bench.table
    before = bench.balancer.score(backend)
    session = bench.connected()
    taken(bench.open())
    assert bench.balancer.score(backend) == pytest.approx(before + 2 * 0.03)
    session.ended(Ending.CLOSED)
    assert bench.balancer.score(backend) == pytest.approx(before + 0.03)
