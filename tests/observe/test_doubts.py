from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.net.addresses import Address
from rproxy.observe.doubts import KEPT_MAX, LOG_EVERY_S, NOTED_MAX, RENDERED, Doubts
from rproxy.observe.history import History
from rproxy.observe.suspicions import LOOK_EVERY_S, ServiceWatch, Suspicion
from rproxy.pool.states import State
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sources.agents.counters import Counters
from rproxy.sources.agents.prober import Timing
from rproxy.tap.service import serve_pool
from rproxy.timing.work_queue import WorkQueue
from rproxy.wire.pdu import Pdu
from tests.fakes import AGENT_PORT, LinkedSessions, logged, run, texts, turn
from tests.observe.test_status_json import view_with
from tests.policies.balancing import policy
from tests.sources.monitoring import Bench as MonitoredPool

WALL = 1e9


class Bench:
    """Looks that find what `self.found` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.found: dict[str, list[str]] = {}
        self.kind = "herding"
        self.history = History(self.wall)
        self.service = "web"
        self.counters = Counters()
        self.work = WorkQueue(self.clock)
        self.view = view_with(2)
        self.doubts = Doubts(self.clock, self.wall, self.work, lambda: [self.view], self.counters, self.history, 5.0)
        monkeypatch.setattr(ServiceWatch, "look", self.look)

    def wall(self) -> float:
        return WALL + self.clock.seconds()

    def look(self, *_: Any, **__: Any) -> Any:
        for backend, text in self.found.items():
            yield [Suspicion((self.kind, self.service, backend), backend, each) for each in text]

    def looks(self, number: int, **found: str) -> None:
        """So many looks pass that find these texts about these back-ends."""
        self.found = {backend: [text] for backend, text in found.items()}
        run(self.clock, number * LOOK_EVERY_S)

    def kinds(self) -> list[tuple[str, str]]:
        return [(each.backend, each.kind) for each in self.history.after(0)]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(monkeypatch)
    bench.doubts.start()
    run(bench.clock, 1.0)
    return bench


def test_what_two_looks_in_a_row_find_is_a_doubt_until_three_no_longer_do(bench: Bench) -> None:
    with logged() as events:
        bench.looks(1, a="first text")
        assert bench.doubts.documents() == []
        bench.looks(1, a="second text")
        bench.looks(1, a="third text")
        (doubt,) = bench.doubts.documents()
        assert doubt == {"since": WALL + 20, "service": "web", "backend": "a", "kind": "herding", "text": "third text"}
        bench.looks(2)
        bench.looks(1, a="fourth text")
        bench.looks(2)
        assert [each["text"] for each in bench.doubts.documents()] == ["fourth text"]
        assert bench.kinds() == [("a", "doubt")]
        bench.looks(1)
    assert bench.doubts.documents() == []
    assert bench.kinds() == [("a", "doubt"), ("a", "cleared")]
    assert texts(events) == ["web: this looks wrong: a: second text"]


def test_what_every_other_look_finds_is_none(bench: Bench) -> None:
    for _ in range(5):
        bench.looks(1, a="text")
        bench.looks(1)
    assert (bench.doubts.present, list(bench.history.after(0))) == ([], [])


def test_many_of_one_kind_are_one_line_and_few_entries(bench: Bench) -> None:
    with logged() as events:
        bench.looks(3, **{f"b{number}": f"text {number}" for number in range(50)})
    assert texts(events) == ["web: this looks wrong: b0: text 0 (and 49 more back-ends likewise)"]
    assert len(bench.kinds()) == NOTED_MAX
    assert len(bench.doubts.present) == 50
    bench.looks(3)
    assert bench.doubts.present == []
    assert len(bench.kinds()) == 2 * NOTED_MAX


def test_lines_about_one_kind_are_a_minute_apart(bench: Bench) -> None:
    with logged() as events:
        for number in range(6):
            bench.looks(2, **{f"b{number}": "text"})
        assert len(events) <= 1 + 6 * 2 * LOOK_EVERY_S / LOG_EVERY_S


def test_they_are_bounded(bench: Bench) -> None:
    bench.looks(2, **{f"b{number}": "text" for number in range(KEPT_MAX + 50)})
    assert len(bench.doubts.present) == KEPT_MAX


@pytest.mark.parametrize("number", [0, 1, RENDERED, RENDERED + 1])
def test_the_document_is_rendered_in_pieces(bench: Bench, number: int) -> None:
    bench.looks(2, **{f"b{each}": 'a "text"' for each in range(number)})
    pieces = list(bench.doubts.rendered())
    assert json.loads(b"".join(pieces)) == {"doubts": bench.doubts.documents()}
    assert len(pieces) == max(1, -(-number // RENDERED))


def test_a_service_that_has_gone_takes_its_doubts_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    views = [bench.view]
    doubts = Doubts(bench.clock, bench.wall, bench.work, lambda: views, Counters(), bench.history, 5.0)
    doubts.start()
    bench.looks(2, a="text")
    assert len(doubts.present) == 1
    views.clear()
    bench.looks(3, a="text")
    assert (doubts.present, doubts._services) == ([], {})


def test_what_a_look_raises_is_logged_and_the_next_one_comes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError("a fault")

    with monkeypatch.context() as patch, logged() as events:
        patch.setattr(ServiceWatch, "look", fails)
        bench.looks(1)
    assert texts(events) == ["looking for what is wrong"]
    bench.looks(2, a="text")
    assert len(bench.doubts.present) == 1


def test_a_look_that_is_not_done_is_not_begun_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[None] = []

    def endless(*_: Any, **__: Any) -> Any:
        begun.append(None)
        while True:
            yield []

    monkeypatch.setattr(ServiceWatch, "look", endless)
    for _ in range(100):
        bench.clock.rightNow += 1.0
        turn(bench.clock)
    assert len(begun) == 1
    bench.doubts.stop()
    bench.work.stop()
    assert bench.clock.getDelayedCalls() == []


def test_a_stop_leaves_no_timer(bench: Bench) -> None:
    bench.looks(1, a="text")
    bench.doubts.stop()
    bench.doubts.stop()
    run(bench.clock, 100.0)
    assert bench.clock.getDelayedCalls() == []
    assert bench.doubts.present == []


class Life(MonitoredPool):
    """Agents that register, count their connections and are busy by chance; sessions come and go."""

    def __init__(self, policy_name: str) -> None:
        super().__init__(policy=policy(policy_name), panic_below=0.5, timing=Timing(freshness_s=None))
        self.rng = Random(7)
        self.served = serve_pool(self.pool, self.clock, publish=self.publish)
        self.history = History(self.clock.seconds)
        seconds, work, counters = self.clock.seconds, WorkQueue(self.clock), self.monitor.counters
        self.doubts = Doubts(self.clock, seconds, work, lambda: [self.served.view], counters, self.history, 5.0)
        self.sessions = LinkedSessions(self.served.service)
        self.held: list[Session] = []

    def _answer(self, pdu: Pdu, address: Address) -> None:
        backend = self.pool.get(address[0], 80)
        established = 0 if backend is None else backend.counts.established
        self.answer = {"cpu": self.rng.randrange(5, 40), "memory": 30, "load": 0, "tcp": 3 + established, "others": 2}
        super()._answer(pdu, address)

    def second(self, clients: int) -> None:
        for _ in range(clients):
            session = self.sessions.open()
            if session.choose_backend() is not None:
                session.connected()
                self.held.append(session)
        while len(self.held) > 30:
            self.held.pop(self.rng.randrange(len(self.held))).ended(Ending.CLOSED)
        run(self.clock, 1.0)


@pytest.mark.parametrize("name", ["expected-delay", "least-connections", "random", "report"])
def test_an_ordinary_life_is_beyond_doubt(name: str) -> None:
    """A start, a host that dies and comes back, an agent that is started again, no clients for a while, and many."""
    life = Life(name)
    life.doubts.start()
    hosts = [(f"10.0.0.{number}", AGENT_PORT) for number in range(1, 6)]
    for second in range(500):
        if second % 20 == 0:
            for number, host in enumerate(hosts):
                if host[0] not in life.silent:
                    life.register(host, instance=2 if number == 1 and second >= 300 else 1)
        if second == 100:
            life.silent.add(hosts[0][0])
        if second == 200:
            life.silent.clear()
        life.second(0 if 220 < second < 280 else 20)
        assert life.doubts.present == [], second
    assert [each for each in life.history.after(0) if each.kind == "doubt"] == []
    assert {backend.state for backend in life.pool} == {State.UP}
    assert sum(backend.counts.total for backend in life.pool) > 8000
