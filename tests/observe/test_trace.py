"""What --trace logs of sessions."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from rproxy.agent.sampler import Load
from rproxy.observe.scores import ReportScore
from rproxy.observe.trace import SessionTrace
from rproxy.pool.policy import Policy
from rproxy.sessions.endings import Ending
from rproxy.sessions.observers import Observers
from rproxy.sessions.service import Service, ServiceTerms
from rproxy.sessions.session import Session
from tests.fakes import FakeLink, RaisingPolicy, confirm, logged, pool_of, pool_with, registered, texts
from tests.policies.balancing import policy
from tests.sessions.opening import Bench, taken


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
    pool = pool_of()
    for number in (1, 2):
        confirm(pool, registered(pool, f"10.0.0.{number}"), token=number, load=Load(10, 20, number))
    registered(pool, "10.0.0.3")
    confirm(pool, registered(pool, "10.0.0.4"), token=4, draining=True)
    clock = Clock()
    trace = SessionTrace(pool, ReportScore(), clock.seconds)
    service = Service(pool, clock, observers=Observers(clock.seconds, choices=[trace]))
    with logged() as events:
        taken(Session(service, FakeLink("the client")))
    scored = {event["backend"]: event for event in events if "score" in event}
    assert list(scored) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert scored["10.0.0.1:80"]["tcp"] == 1  # as the policy found it: without the session that it gets
    second = scored["10.0.0.2:80"]
    assert (second["tcp"], second["cpu"], second["memory"], second["loss"]) == (2, 10, 20, 0)
    assert second["rtt_ms"] == pytest.approx(10)
    assert second["score"] == pytest.approx(0.30 * 10 / 20 + 0.30 * 2 / 10 + 0.05 + 0.10)
    lines = texts(events)
    assert "10.0.0.2:80 score 0.360 RTT 10.000 ms TCP 2 CPU 10 % memory 20 % loss 0.00" in lines
    assert lines[-1] == "client the client -> 10.0.0.1:80"


def traced(policy: Policy) -> list[str]:
    """The lines of one choice between two back-ends."""
    pool, clock = pool_with(2, policy), Clock()
    trace = SessionTrace(pool, ReportScore(), clock.seconds)
    service = Service(pool, clock, observers=Observers(clock.seconds, choices=[trace]))
    with logged() as events:
        taken(Session(service, FakeLink("the client")))
    return texts(events)


def test_a_trace_shows_what_the_policy_compares_after_the_figures() -> None:
    lines = traced(policy("p2c"))
    assert lines[1] == "10.0.0.1:80 is compared by 10: sessions 0, failures 0, queue 0, weight 10"
    assert lines[3] == "10.0.0.2:80 is compared by 10: sessions 0, failures 0, queue 0, weight 10"
    assert [line.split()[:2] for line in lines[::2][:2]] == [["10.0.0.1:80", "score"], ["10.0.0.2:80", "score"]]


def test_a_policy_that_cannot_explain_leaves_the_rest_of_the_trace() -> None:
    lines = traced(RaisingPolicy("explain"))
    assert "10.0.0.1:80 is compared by nan: no terms" in lines
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


def waiting(bench: Bench) -> Session:
    """A client that gives up when the wait queue calls it back."""
    session = bench.open()
    assert session.choose_backend() is None

    def give_up() -> None:
        session.give_up()

    assert session.wait_for_backend(give_up)
    return session


def test_the_traced_time_begins_after_the_wait_unless_the_client_leaves_the_queue() -> None:
    bench = Bench(up=0, trace=True, terms=ServiceTerms(wait_s=5))
    waiting(bench)
    bench.clock.advance(1)
    leaving = waiting(bench)
    with logged() as events:
        bench.clock.advance(4)
        leaving.ended(Ending.CLIENT_GONE)
    ends = [(event["ending"], event["seconds"]) for event in events if "seconds" in event]
    assert ends == [(Ending.NO_BACKEND, 0), (Ending.CLIENT_GONE, 4)]


def test_what_a_trace_logs_is_at_debug_level() -> None:
    bench = Bench(trace=True)
    with logged() as events:
        bench.connected().ended(Ending.CLOSED)
    assert {event["log_level"] for event in events} == {LogLevel.debug}
