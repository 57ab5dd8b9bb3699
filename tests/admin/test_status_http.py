"""`/status.json` over HTTP, on a transport in memory."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.agent.sampler import Load
from rproxy.observe.scores import ReportScore
from rproxy.observe.status_json import ServiceView, Status
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sources.agents.counters import Counters
from rproxy.tap.service import serve_pool
from rproxy.wire.pdu import Unregister
from tests.admin.clients import ServerBench
from tests.fakes import FakeLink, confirm, logged, pool_of, registered

FIGURE_5_10 = Load(cpu=17, memory=89, tcp=0)


class Bench:
    def __init__(self) -> None:
        self.pool = pool_of()
        self.served = serve_pool(self.pool, Clock())
        self.service = self.served.service
        self.counters = Counters()
        self.saturation: float | None = None

    def request(self, method: str, path: str) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        view = ServiceView(self.service, self.served.counters, ReportScore(self.saturation))
        server = ServerBench(Status(lambda: [view], self.counters, Capacity(10, lambda: 0.0)).rendered)
        answer = server.client().ask(f"{method} {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def get(self) -> dict[str, Any]:
        code, body = self.request("GET", "/status.json")
        assert code == HTTPStatus.OK
        document: dict[str, Any] = json.loads(body)
        return document

    @property
    def only(self) -> dict[str, Any]:
        (backend,) = self.get()["backends"]
        assert isinstance(backend, dict)
        return backend


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/status.json", HTTPStatus.OK),
        ("HEAD", "/status.json", HTTPStatus.OK),
        ("GET", "/status.json?pretty=1", HTTPStatus.OK),
        ("GET", "/", HTTPStatus.NOT_FOUND),
        ("GET", "/status", HTTPStatus.NOT_FOUND),
        ("GET", "/../etc/passwd", HTTPStatus.NOT_FOUND),
        ("POST", "/status.json", HTTPStatus.METHOD_NOT_ALLOWED),
    ],
)
def test_only_this_path_and_only_reading_it_is_offered(method: str, path: str, expected: HTTPStatus) -> None:
    assert Bench().request(method, path)[0] == expected


def test_a_head_request_has_no_body() -> None:
    assert Bench().request("HEAD", "/status.json")[1] == b""


def test_requests_are_not_logged() -> None:
    with logged() as events:
        Bench().request("GET", "/status.json")
        Bench().request("GET", "/nothing")
    assert list(events) == []


@pytest.mark.parametrize("draining", [True, False])
def test_a_backend_that_is_down_is_shown_as_down_with_its_last_figures(draining: bool) -> None:
    bench = Bench()
    backend = registered(bench.pool, "10.0.0.1")
    confirm(bench.pool, backend, token=1, load=FIGURE_5_10, draining=draining)
    for token in (2, 3, 4):
        bench.pool.probe(backend, backend.registration, token, 0.0)
        bench.pool.lost(token, 0.0)
    assert (bench.only["state"], bench.only["loss"], bench.only["cpu"]) == ("down", 0.75, 17)


def test_our_sessions_are_counted_and_are_part_of_tcp() -> None:
    bench = Bench()
    confirm(bench.pool, registered(bench.pool, "10.0.0.1"), token=1, load=Load(10, 20, 3))
    sessions = [Session(bench.service, FakeLink()) for _ in range(3)]
    for session in sessions:
        session.choose_backend()
    for session in sessions[:2]:
        session.connected()
    sessions[0].ended(Ending.CLOSED)
    assert (bench.only["connections"], bench.only["total"], bench.only["tcp"]) == (2, 2, 5)


def test_the_reports_score_is_that_of_the_saturation_in_use() -> None:
    bench = Bench()
    confirm(bench.pool, registered(bench.pool, "10.0.0.1"), token=1, load=FIGURE_5_10)
    assert bench.only["report_score"] == 0.68
    bench.saturation = 0.70
    assert bench.only["report_score"] == 100


def test_every_backend_is_listed_and_a_forgotten_one_is_not() -> None:
    bench = Bench()
    for address in ("10.0.0.1", "10.0.0.2", "2001:db8::5"):
        registered(bench.pool, address)
    bench.pool.unregister(("10.0.0.2", 5555), Unregister(80, 1), 0.0)
    assert [backend["address"] for backend in bench.get()["backends"]] == ["10.0.0.1", "2001:db8::5"]


def test_the_counters_are_the_datagrams_and_the_sessions_by_ending() -> None:
    bench = Bench()
    bench.counters.accepted.update({"register": 3})
    bench.counters.dropped.update(["late", "length", "length"])
    bench.counters.send_errors.update(["OSError"])
    Session(bench.service, FakeLink()).ended(Ending.CLIENT_GONE)
    counters = bench.get()["counters"]
    assert (counters["accepted"], counters["dropped"]) == ({"register": 3}, {"late": 1, "length": 2})
    assert (counters["send_errors"], counters["sessions"]) == ({"OSError": 1}, {"client-gone": 1})
