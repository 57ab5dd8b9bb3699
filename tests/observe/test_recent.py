from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock

from rproxy.agent.sampler import Load
from rproxy.observe.recent import EVERY_S, POINTS, SLICE, Recent
from rproxy.observe.scores import ReportScore
from rproxy.observe.status_json import ServiceView
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.tap.service import serve_pool
from rproxy.timing.work_queue import WorkQueue
from rproxy.wire.pdu import Unregister
from tests.fakes import UNLIMITED, FakeLink, confirm, pool_of, registered, run, turn


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.pool = pool_of(limits=UNLIMITED)
        served = serve_pool(self.pool, self.clock)
        self.service = served.service
        view = ServiceView(self.service, served.counters, ReportScore(None))
        self.work = WorkQueue(self.clock)
        self.recent = Recent(lambda: [view], self.work, self.clock, lambda: 1e9 + self.clock.seconds())

    def connected(self) -> Session:
        session = Session(self.service, FakeLink())
        session.choose_backend()
        session.connected()
        return session

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(b"".join(self.recent.rendered({"pid": 7})))
        return document


def test_a_point_is_taken_at_the_start_and_every_ten_seconds() -> None:
    bench = Bench()
    confirm(bench.pool, registered(bench.pool, "10.0.0.1"), token=1, load=Load(cpu=17, memory=20, tcp=0))
    bench.recent.start()
    run(bench.clock, 1.0)
    first, _ = bench.connected(), bench.connected()
    run(bench.clock, EVERY_S)
    first.ended(Ending.CLOSED)
    run(bench.clock, EVERY_S)
    document = bench.document()
    assert document["backends"] == {"default/10.0.0.1:80": {"sessions": [0, 2, 1], "new": [0, 2, 0], "cpu": [17] * 3}}
    assert document["services"] == {"default": {"sessions": [0, 2, 1], "new": [0, 2, 0]}}
    assert (document["every"], document["last"], document["process"]) == (EVERY_S, 1e9 + 2 * EVERY_S, {"pid": 7})


def test_ten_minutes_are_kept() -> None:
    bench = Bench()
    confirm(bench.pool, registered(bench.pool, "10.0.0.1"), token=1)
    bench.recent.start()
    for _ in range(2 * POINTS + 10):
        bench.connected()
        run(bench.clock, EVERY_S)
    (series,) = bench.document()["backends"].values()
    ever = 2 * POINTS + 10
    assert series["sessions"] == list(range(ever - POINTS + 1, ever + 1))
    assert series["new"] == [1] * POINTS


def test_a_backend_that_comes_later_has_a_shorter_series_and_one_that_goes_has_none() -> None:
    bench = Bench()
    first = registered(bench.pool, "10.0.0.1")
    confirm(bench.pool, first, token=1)
    bench.recent.start()
    run(bench.clock, 2 * EVERY_S)
    registered(bench.pool, "10.0.0.2")
    run(bench.clock, EVERY_S)
    bench.pool.unregister(("10.0.0.1", 5555), Unregister(80, 1), bench.clock.seconds())
    assert {name: len(each["sessions"]) for name, each in bench.document()["backends"].items()} == {
        "default/10.0.0.2:80": 1
    }
    assert bench.document()["backends"]["default/10.0.0.2:80"]["cpu"] == []
    run(bench.clock, EVERY_S)
    assert len(bench.document()["services"]["default"]["sessions"]) == 5


def test_many_backends_are_looked_at_and_rendered_slice_by_slice() -> None:
    bench = Bench()
    for number in range(3 * SLICE):
        confirm(bench.pool, registered(bench.pool, f"10.0.{number // 250}.{number % 250 + 1}"), token=number)
    bench.recent.start()
    for _ in range(3):
        assert bench.document()["services"] == {}
        turn(bench.clock)
    turn(bench.clock)
    assert len(bench.document()["backends"]) == 3 * SLICE
    assert len(list(bench.recent.rendered({}))) == 5


def test_nothing_is_left_after_a_stop_which_may_come_without_a_start() -> None:
    bench = Bench()
    bench.recent.stop()
    bench.recent.start()
    bench.work.stop()
    bench.recent.stop()
    assert bench.clock.calls == []
