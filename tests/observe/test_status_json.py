from __future__ import annotations

import json
import math
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.agent.sampler import Load
from rproxy.observe.publisher import Publisher
from rproxy.observe.scores import ReportScore
from rproxy.observe.session_counters import SessionCounters
from rproxy.observe.status_json import ROWS, ProcessFacts, ServiceView, Status
from rproxy.policies.least_connections import LeastConnectionsPolicy
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend, StaticTerms
from rproxy.pool.health import FALL
from rproxy.pool.policy import Explanation, Policy
from rproxy.pool.states import Administration, Override
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.observers import Observers
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.sources.agents.counters import Counters
from rproxy.wire.agent_check import read
from rproxy.wire.pdu import Unregister
from tests.fakes import AGENT_PORT, CountingPolicy, FakeLink, RaisingPolicy, confirm, logged, pool_with, registered
from tests.policies.balancing import policy

FIELDS = {
    *("service", "address", "port", "state", "passed_over", "score", "terms", "report_score"),
    *("rtt_ms", "srtt_ms", "loss", "tcp", "cpu", "memory", "load", "others"),
    *("administration", "weight", "own_weight", "share", "interval_s", "check", "said"),
    *("connections", "max_connections", "total", "last_seen_s"),
    *("connect_errors", "redispatched", "checks_failed", "downs", "down_s"),
    *("eligible", "full", "since", "refusals", "bytes_up", "bytes_down", "report_age"),
}


CAPACITY = Capacity(10, lambda: 0.0)


def view_with(up: int, policy: Policy | None = None) -> ServiceView:
    clock, counters = Clock(), SessionCounters()
    clock.rightNow = 3.0
    observers = Observers(clock.seconds, sessions=[counters], redispatches=[counters])
    service = Service(pool_with(up, policy or LeastConnectionsPolicy()), clock, observers=observers)
    return ServiceView(service, counters, ReportScore())


def status(view: ServiceView, datagrams: Counters, capacity: Capacity) -> dict[str, Any]:
    return Status(lambda: [view], datagrams, capacity).document()


def test_each_backend_has_the_documented_fields() -> None:
    shown = status(view_with(2), Counters(), CAPACITY)["backends"]
    assert [set(each) for each in shown] == [FIELDS, FIELDS]


def test_what_a_back_end_reports_is_shown() -> None:
    view = view_with(0)
    backend = registered(view.service.pool, "10.0.0.9")
    confirm(view.service.pool, backend, token=7, load=Load(cpu=17, memory=None, tcp=4, application=30))
    backend.report.others = 6
    assert view.service.pool.choose(0.0) is backend
    (shown,) = status(view, Counters(), CAPACITY)["backends"]
    assert shown | {"score": 0, "terms": {}, "report_score": 0, "srtt_ms": 0} == {
        "service": "default",
        "address": "10.0.0.9",
        "port": 80,
        "state": "up",
        "passed_over": "",
        "score": 0,
        "terms": {},
        "report_score": 0,
        "rtt_ms": 10.0,
        "srtt_ms": 0,
        "loss": 0.0,
        "tcp": 5,
        "cpu": 17,
        "memory": None,
        "load": 30,
        "others": 6,
        "administration": "ready",
        "weight": 100,
        "own_weight": 100,
        "share": 0.1,
        "interval_s": 20.0,
        "check": "agent",
        "said": "",
        "connections": 1,
        "max_connections": None,
        "total": 0,
        "eligible": True,
        "full": False,
        "since": 2.99,
        "refusals": 0,
        "connect_errors": 0,
        "redispatched": 0,
        "checks_failed": 0,
        "downs": 0,
        "down_s": 0.0,
        "bytes_up": 0,
        "bytes_down": 0,
        "report_age": 3.0,
        "last_seen_s": 2.99,
    }
    assert shown["report_score"] == pytest.approx(0.15 + 0.15 + 0.085 + 0.25)
    assert shown["srtt_ms"] is None
    for number in range(7):
        backend.rtt.add(12.0, now=5.0 * (number + 1))
    assert 10.0 < status(view, Counters(), CAPACITY)["backends"][0]["srtt_ms"] < 12.0


def test_a_static_back_end_shows_how_it_is_checked_and_what_was_said_of_it() -> None:
    view = view_with(0)
    pool = view.service.pool
    pool.static.put(("10.0.0.9", 80), StaticTerms(50, "agent-check:9000"), 0.0)
    (backend,) = pool
    (shown,) = status(view, Counters(), CAPACITY)["backends"]
    assert (shown["state"], shown["check"], shown["said"], shown["score"]) == (
        "registered",
        "agent-check:9000",
        "",
        None,
    )
    pool.static.checked(backend, 1.0, rtt_ms=0.25)
    pool.static.said(backend, read("0% maxconn:5"), 1.0)
    (shown,) = status(view, Counters(), CAPACITY)["backends"]
    assert set(shown) == FIELDS
    assert (shown["state"], shown["said"], shown["weight"]) == ("draining", "weight 0, maxconn 5", 0)
    assert (shown["rtt_ms"], shown["interval_s"], shown["last_seen_s"], shown["cpu"]) == (0.25, None, 2.0, None)
    assert shown["score"] is not None
    pool.static.said(backend, read("100% stopped # backup"), 1.0)
    (shown,) = status(view, Counters(), CAPACITY)["backends"]
    assert (shown["state"], shown["said"], shown["weight"]) == ("down", "stopped (backup), maxconn 5", 50)


def test_what_went_wrong_with_a_back_end_is_counted() -> None:
    view = view_with(0)
    pool, figures = view.service.pool, view.figures
    pool.static.put(("10.0.0.9", 80), StaticTerms(100, "tcp"), 0.0)
    (backend,) = pool
    publish = Publisher()
    publish.subscribe(figures.observers())
    for failure in ["", "", *["refused"] * FALL, "", ""]:
        publish(pool.static.checked(backend, 1.0, failure=failure))
    pool.refused(backend, 2.0)
    figures.redispatched(backend, backend)
    (shown,) = status(view, Counters(), CAPACITY)["backends"]
    names = ("connect_errors", "redispatched", "checks_failed", "downs", "down_s")
    assert [shown[name] for name in names] == [1, 1, FALL, 1, 0.0]


def test_one_that_is_not_checked_has_a_score_as_well() -> None:
    view = view_with(0)
    pool = view.service.pool
    pool.static.put(("10.0.0.9", 80), StaticTerms(100, "none"), 0.0)
    (backend,) = pool
    pool.static.checked(backend, 1.0)
    (shown,) = status(view, Counters(), CAPACITY)["backends"]
    assert (shown["state"], shown["last_seen_s"], shown["rtt_ms"]) == ("up", None, None)
    assert None not in (shown["score"], shown["report_score"])


def test_what_is_not_known_yet_is_null() -> None:
    view = view_with(0)
    registered(view.service.pool, "10.0.0.9")
    (shown,) = status(view, Counters(), CAPACITY)["backends"]
    assert shown["state"] == "registered"
    assert {name for name, value in shown.items() if value is None} == {
        *("score", "report_score", "rtt_ms", "srtt_ms", "tcp", "cpu", "memory", "load", "others", "last_seen_s"),
        *("max_connections", "since", "report_age"),
    }
    assert shown["terms"] == {}


@pytest.mark.parametrize("name", POLICIES)
def test_the_score_is_what_the_policy_in_use_compares(name: str) -> None:
    view = view_with(3, policy(name))
    pool, now = view.service.pool, view.service.seconds()
    for row, backend in zip(status(view, Counters(), CAPACITY)["backends"], pool, strict=True):
        explained = pool.explain(backend, now)
        assert row["score"] == pytest.approx(explained.value, rel=1e-5)
        assert row["terms"] == pytest.approx(dict(explained.terms), rel=1e-5)


class Explaining(CountingPolicy):
    """Explains every back-end by the same value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def explain(self, backend: Backend, now: float) -> Explanation:
        return Explanation(self.value, {"first": self.value, "second": 2})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((math.nan, None), (math.inf, None), (-math.inf, None), (0, 0), (1e13 + 0.123, 1e13)),
        *((1 / 3, 0.333333), (2e-9, 2e-9), (-123456.789, -123457)),
    ],
)
def test_values_of_any_size_are_shown_and_those_that_are_no_numbers_are_null(value: float, shown: float | None) -> None:
    view = view_with(1, Explaining(value))
    text = b"".join(Status(lambda: [view], Counters(), CAPACITY).rendered())
    (row,) = json.loads(text, parse_constant=pytest.fail)["backends"]
    assert (row["score"], row["terms"]) == (shown, {"first": shown, "second": 2})
    assert row["report_score"] is not None


def test_without_an_explanation_the_rest_is_shown() -> None:
    view = view_with(1, RaisingPolicy("explain"))
    with logged():
        (row,) = status(view, Counters(), CAPACITY)["backends"]
    assert (row["score"], row["terms"], row["state"]) == (None, {}, "up")


def test_a_count_that_is_unknown_to_its_agent_is_null() -> None:
    view = view_with(0)
    confirm(
        view.service.pool,
        registered(view.service.pool, "10.0.0.9"),
        token=7,
        load=Load(cpu=10, memory=20, tcp=None),
    )
    (shown,) = status(view, Counters(), CAPACITY)["backends"]
    assert (shown["tcp"], shown["cpu"]) == (None, 10)


def test_a_backend_that_is_up_and_drains_is_draining() -> None:
    view = view_with(0)
    confirm(view.service.pool, registered(view.service.pool, "10.0.0.9"), token=7, draining=True)
    assert status(view, Counters(), CAPACITY)["backends"][0]["state"] == "draining"


def test_counters_are_those_of_the_datagrams() -> None:
    counters = Counters()
    counters.accepted["register"] += 2
    counters.dropped["length"] += 3
    shown = status(view_with(0), counters, CAPACITY)["counters"]
    assert (shown["accepted"], shown["dropped"]) == ({"register": 2}, {"length": 3})


def test_sessions_are_counted_against_their_limit_and_their_bytes_once_they_are_over() -> None:
    view, capacity = view_with(1), Capacity(10, lambda: 0.0)
    capacity.enter()
    session = Session(view.service, FakeLink())
    assert session.choose_backend() is not None
    session.connected()
    session.up, session.down = 3, 5
    assert status(view, Counters(), capacity)["counters"]["bytes"] == {"up": 0, "down": 0}
    session.ended(Ending.CLOSED)
    shown = status(view, Counters(), capacity)
    assert shown["connections"] == {"now": 1, "max": 10}
    assert shown["counters"]["bytes"] == {"up": 3, "down": 5}


def test_limits_are_shown_and_who_waits_for_them() -> None:
    view = view_with(2)
    service, (shown,) = view.service, status(view, Counters(), CAPACITY)["services"]
    assert (shown["waiting"], shown["waiting_s"], shown["full"]) == (0, 0, 0)
    service.pool.limit_each(1, 3.0)
    for _ in range(2):
        assert service.pool.choose(3.0) is not None
    for _ in range(3):
        session = Session(service, FakeLink())
        assert session.choose_backend() is None
        assert session.wait_for_backend(lambda: None)
    document = status(view, Counters(), CAPACITY)
    (shown,) = document["services"]
    assert (shown["waiting"], shown["waiting_s"], shown["full"]) == (3, 0, 2)
    assert [(row["connections"], row["max_connections"], row["state"]) for row in document["backends"]] == [
        (1, 1, "up"),
        (1, 1, "up"),
    ]


@pytest.mark.parametrize("backends", [0, 1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS])
def test_it_is_rendered_a_backend_a_line_and_few_at_once(backends: int) -> None:
    view = view_with(backends)
    pieces = list(Status(lambda: [view], Counters(), CAPACITY).rendered())
    text = b"".join(pieces).decode()
    assert json.loads(text) == status(view, Counters(), CAPACITY)
    assert sum(line.startswith('{"address"') for line in text.splitlines()) == backends
    assert len(pieces) == max(1, -(-backends // ROWS))
    assert all(pieces)


def test_what_is_forgotten_while_it_is_rendered_is_not_listed() -> None:
    view = view_with(4 * ROWS)
    pieces = Status(lambda: [view], Counters(), CAPACITY).rendered()
    text = next(pieces)
    for backend in list(view.service.pool)[ROWS:-1]:
        view.service.pool.unregister(backend.registration.agent, Unregister(backend.port, 1), 0.0)
    text += b"".join(pieces)
    assert len(json.loads(text)["backends"]) == ROWS + 1


def test_the_table_may_grow_while_it_is_rendered() -> None:
    view = view_with(2 * ROWS)
    pieces = Status(lambda: [view], Counters(), CAPACITY).rendered()
    text = next(pieces)
    registered(view.service.pool, "10.9.9.9")
    assert len(json.loads(text + b"".join(pieces))["backends"]) == 2 * ROWS


def test_all_services_are_shown_together() -> None:
    views = [view_with(ROWS + 1), view_with(2)]
    for view, ending in zip(views, (Ending.CLOSED, Ending.IDLE), strict=True):
        session = Session(view.service, FakeLink())
        session.choose_backend()
        session.connected()
        session.up, session.down = 3, 5
        session.ended(ending)
    status = Status(lambda: views, Counters(), CAPACITY)
    pieces = list(status.rendered())
    shown = json.loads(b"".join(pieces))
    assert shown == status.document()
    assert (len(shown["backends"]), len(pieces)) == (ROWS + 3, 3)
    assert shown["counters"]["sessions"] == {"closed": 1, "idle": 1}
    assert shown["counters"]["bytes"] == {"up": 6, "down": 10}
    assert [each["counters"]["sessions"] for each in shown["services"]] == [{"closed": 1}, {"idle": 1}]
    assert [each["known"] for each in shown["services"]] == [ROWS + 1, 2]


def test_one_that_has_just_failed_says_at_what() -> None:
    view = view_with(2)
    refusing, silent = view.service.pool
    pool = view.service.pool
    assert pool.choose(0.0, exclude=(silent,)) is refusing
    pool.refused(refusing, 0.0)
    probe = pool.probe(silent, silent.registration, 99, 0.0)
    pool.lost(probe.request.token, 1.0)
    shown = status(view, Counters(), CAPACITY)["backends"]
    assert [each["passed_over"] for each in shown] == ["connects failed in a row: 1", "its last probe was lost"]
    pool.served(refusing, 2.0)
    assert status(view, Counters(), CAPACITY)["backends"][0]["passed_over"] == ""


def test_the_state_is_as_old_as_its_last_change_and_a_lost_probe_is_none() -> None:
    view = view_with(1)
    (backend,) = view.service.pool
    pool = view.service.pool
    pool.probe(backend, backend.registration, 99, 1.0)
    pool.lost(99, 2.0)
    assert [(row["state"], row["since"]) for row in view.rows(pool)] == [("suspect", 2.99)]
    pool.unregister(("10.0.0.1", AGENT_PORT), Unregister(80, 1), 2.5)
    assert backend.state_since == 2.5


def test_one_that_an_operator_drains_does_so_since_he_said_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1007.0)
    view = view_with(1)
    pool = view.service.pool
    (backend,) = pool
    for since, shown in ((1000.0, 7.0), (1010.0, 0.0)):  # then the clock was set back
        backend.override = Override(Administration.DRAIN, None, since)
        assert [(row["state"], row["since"]) for row in view.rows(pool)] == [("draining", shown)]
    backend.override = Override(Administration.READY, None, 1000.0)
    assert [row["since"] for row in view.rows(pool)] == [2.99]


def test_who_is_full_is_shown_apart_from_who_is_eligible() -> None:
    view = view_with(2)
    pool = view.service.pool
    pool.limit_each(1, 0.0)
    taken = pool.choose(3.0)
    assert {row["address"]: (row["eligible"], row["full"]) for row in view.rows(pool)} == {
        each.address: (each is not taken, each is taken) for each in pool
    }


def test_the_process_is_told_of() -> None:
    view = view_with(1)
    facts = ProcessFacts("1.2", 1000.5, 77)
    shown = Status(lambda: [view], Counters(), CAPACITY, facts).document()
    assert (shown["version"], shown["started"], shown["pid"]) == ("1.2", 1000.5, 77)
