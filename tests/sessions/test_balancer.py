"""What the scoring service logs and adds up: clients turned away, traces, scores."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from rproxy.agent.sampler import Load
from rproxy.policies.formula import SATURATED
from rproxy.pool.pool import Pool
from rproxy.pool.table import Table
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from tests.fakes import CountingPolicy, FakeLink, RaisingPolicy, confirm, guarded, logged, registered, run, texts
from tests.sessions.opening import Bench, taken


def turn_away(bench: Bench, clients: int) -> None:
    for _ in range(clients):
        session = bench.open()
        while session.choose_backend() is not None:
            session.connect_failed()
        session.give_up()


def test_clients_turned_away_are_one_warning_in_ten_seconds_and_the_last_tells_the_sum() -> None:
    bench = Bench(up=0)
    with logged() as events:
        turn_away(bench, 50)
        bench.clock.advance(9.9)
        turn_away(bench, 50)
        assert [event["count"] for event in events] == [1]
        bench.clock.advance(0.1)
        assert [event["count"] for event in events] == [1, 100]
        turn_away(bench, 7)
        run(bench.clock, 100)
        assert [event["count"] for event in events] == [1, 100, 107]
        run(bench.clock, 100)
        turn_away(bench, 2)
        assert [event["count"] for event in events] == [1, 100, 107, 1]
        bench.service.stop()
    assert [event["count"] for event in events] == [1, 100, 107, 1, 2]
    assert {event["log_level"] for event in events} == {LogLevel.warn}
    assert texts(events)[2].startswith("107 client(s) turned away in 20 s: no back-end is up; ")
    assert bench.clock.getDelayedCalls() == []


def test_an_episode_of_one_client_is_one_line() -> None:
    bench = Bench(up=0)
    with logged() as events:
        turn_away(bench, 1)
        run(bench.clock, 100)
    assert len(events) == 1
    assert bench.clock.getDelayedCalls() == []


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
    class Link(FakeLink):
        def client_address(self) -> str:
            raise AssertionError("nobody reads this")

    bench = Bench()
    with logged() as events:
        session = Session(bench.service, Link())
        taken(session)
        session.connect_failed()
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
    service = Service(Pool(table, CountingPolicy()), Clock(), trace=True)
    with logged() as events:
        taken(Session(service, FakeLink("the client")))
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
        bench.open().choose_backend()
    assert texts(events) == ["client the client -> nobody"]


def test_a_trace_shows_how_a_session_ended_and_what_it_carried() -> None:
    bench = Bench(trace=True)
    session = bench.open()
    taken(session)
    session.connect_failed()
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
    assert bench.service.score(backend) == pytest.approx(expected)


def test_the_score_shown_counts_our_own_sessions_since_the_last_report() -> None:
    bench = Bench(up=1)
    (backend,) = bench.table
    before = bench.service.score(backend)
    session = bench.connected()
    taken(bench.open())
    assert bench.service.score(backend) == pytest.approx(before + 2 * 0.03)
    session.ended(Ending.CLOSED)
    assert bench.service.score(backend) == pytest.approx(before + 0.03)


def test_what_sessions_carried_is_added_up_when_they_end_and_once() -> None:
    bench = Bench()
    for up, down in ((10, 200), (1, 2)):
        session = bench.connected()
        session.up, session.down = up, down
        before = (bench.service.up, bench.service.down)
        session.ended(Ending.CLOSED)
        session.ended(Ending.STOPPED)
        assert (bench.service.up, bench.service.down) == (before[0] + up, before[1] + down)
    assert (bench.service.up, bench.service.down) == (11, 202)


def test_an_ending_is_a_counters_name() -> None:
    counts = {ending: number for number, ending in enumerate(Ending)}
    assert {str(ending): number for ending, number in counts.items()} == counts
    assert counts["backend-reset"] == counts[Ending.BACKEND_RESET]  # type: ignore[index]
    assert {hash(ending) for ending in Ending} == {hash(str(ending)) for ending in Ending}


def test_a_policy_that_fails_costs_no_session_its_back_end() -> None:
    bench = Bench()
    bench.service.pool.policy = guarded(RaisingPolicy("choose", "opened", "closed"))
    with logged() as events:
        for _ in range(5):
            bench.connected().ended(Ending.CLOSED)
    assert {event["log_level"] for event in events} == {LogLevel.critical}
    assert sum(total for _, _, total in bench.counts) == 5
    assert bench.service.endings == {Ending.CLOSED: 5}


def test_a_policy_that_fails_to_note_a_failure_costs_no_try() -> None:
    bench = Bench()
    bench.service.pool.policy = guarded(RaisingPolicy("failed"))
    session = bench.open()
    with logged():
        first = taken(session)
        session.connect_failed()
        assert taken(session) is not first
    assert bench.counts == [(0, 0, 0), (1, 0, 0), (0, 0, 0)]
