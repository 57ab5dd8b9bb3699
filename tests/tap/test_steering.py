"""What operators say, done by a proxy in memory."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred

from rproxy.admin.control import Refusal, Target, Unknown
from rproxy.observe.history import Happening
from rproxy.wire.pdu import Unregister, encode
from tests.fakes import Stream, logged, run, texts
from tests.tap.services import AGENT, ProxyBench

BACKEND = "10.0.0.1:8000"
TARGET = Target("default", BACKEND)


class Bench(ProxyBench):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"listen": ("8080",), "backend_port": 8000, "wait_s": 0.0, **settings})
        self.start()
        self.backend_up()
        self.control = self.service._steering

    def return_as(self, instance: int) -> None:
        """The agent registers again, after its first probe's share of the rate."""
        run(self.reactor, 1)
        self.reactor.datagrams[0].take()
        self.backend_up(instance)

    @property
    def row(self) -> dict[str, Any]:
        (row,) = self.service.status()["backends"]
        assert isinstance(row, dict)
        return row

    @property
    def happenings(self) -> list[Happening]:
        return list(self.service._operators._seen.history.after(0))

    def done(self, call: Any, *arguments: object) -> object:
        """What its Deferred came to within a turn or a few of the reactor."""
        results: list[object] = []
        deferred: Deferred[Any] = maybeDeferred(call, *arguments)
        deferred.addBoth(results.append)
        run(self.reactor, 0)
        (result,) = results
        return result

    def refused(self, kind: type[Refusal], call: Any, *arguments: object) -> str:
        failure: Any = self.done(call, *arguments)
        assert failure.check(kind) is kind
        return str(failure.value)

    def ended(self) -> dict[str, int]:
        ended: dict[str, int] = self.service.status()["counters"]["sessions"]
        return ended


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(("word", "state"), [("drain", "draining"), ("maint", "maint")])
def test_a_word_outlives_the_agent_and_the_row_until_ready(bench: Bench, word: str, state: str) -> None:
    with logged() as events:
        assert bench.done(getattr(bench.control, word), TARGET) is None
    assert texts(events) == [f"back-end {BACKEND}: {word} (by an operator)"]
    assert (bench.row["state"], bench.row["administration"]) == (state, word)
    bench.service.monitor.datagramReceived(encode(Unregister(0, 1)), AGENT)
    assert bench.service.status()["backends"] == []
    with logged() as events:
        bench.return_as(2)
    (line,) = [text for text in texts(events) if "-> up" in text]
    assert line.endswith(f"registered -> up (answered a probe; agent 10.0.0.1:5555; {word}, by an operator)")
    assert bench.happenings[-1].text == f"answered a probe; {word}, by an operator"
    assert (bench.row["state"], bench.row["administration"]) == (state, word)
    bench.done(bench.control.ready, TARGET)
    assert (bench.row["state"], bench.row["administration"]) == ("up", "ready")
    said = [(each.service, each.backend, each.kind, each.text) for each in bench.happenings]
    assert ("default", BACKEND, word, "an operator says so") in said
    assert said[-1] == ("default", BACKEND, "ready", "an operator says so")


def test_one_that_is_not_there_now_can_be_made_ready(bench: Bench) -> None:
    bench.done(bench.control.drain, TARGET)
    bench.service.monitor.datagramReceived(encode(Unregister(0, 1)), AGENT)
    with logged() as events:
        assert bench.done(bench.control.ready, TARGET) is None
    assert texts(events) == [f"back-end {BACKEND}: ready (by an operator); it is not there now"]
    assert bench.happenings[-1].text == "ready (by an operator); it is not there now"
    bench.return_as(2)
    assert bench.row["state"] == "up"
    bench.service.monitor.datagramReceived(encode(Unregister(0, 2)), AGENT)
    assert bench.refused(Unknown, bench.control.drain, TARGET) == f"service default has no back-end {BACKEND}"


def test_a_weight_is_the_operators_until_he_takes_it_back(bench: Bench) -> None:
    with logged() as events:
        bench.done(bench.control.weigh, TARGET, 7)
        assert (bench.row["weight"], bench.row["own_weight"]) == (7, 100)
        bench.done(bench.control.weigh, TARGET, None)
    assert (bench.row["weight"], bench.row["own_weight"]) == (100, 100)
    assert texts(events) == [
        f"back-end {BACKEND}: weight 7 (by an operator)",
        f"back-end {BACKEND}: its own weight again (by an operator)",
    ]
    assert [each.kind for each in bench.happenings[-2:]] == ["weight", "weight"]


@pytest.mark.parametrize("weight", [0, -1, 65536])
def test_a_weight_that_is_none_is_refused(bench: Bench, weight: int) -> None:
    assert "1 to 65535" in bench.refused(Refusal, bench.control.weigh, TARGET, weight)
    assert bench.row["weight"] == 100


def test_a_session_is_killed_by_its_number(bench: Bench) -> None:
    streams = [bench.session() for _ in range(3)]
    sessions = [session for each in bench.service.carrier.slices() for session in each]
    number = sorted(session.id for session in sessions)[1]
    with logged() as events:
        assert bench.done(bench.control.kill, number) is None
    run(bench.reactor, 1)
    assert [(bool(client.disconnected), bool(server.disconnected)) for client, server in streams] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    assert bench.ended() == {"killed": 1}
    assert texts(events) == [f"back-end {BACKEND}: session {number} was ended (by an operator)"]
    assert bench.happenings[-1].kind == "kill"
    assert str(number) in bench.refused(Unknown, bench.control.kill, number)


def test_clients_that_wait_and_those_that_connect_are_killed_as_well() -> None:
    bench = Bench(wait_s=60.0)
    connecting = visitor(bench)
    bench.done(bench.control.drain, TARGET)
    waiting = visitor(bench)
    numbers = sorted(session.id for each in bench.service.carrier.slices() for session in each)
    for number in numbers:
        bench.done(bench.control.kill, number)
    run(bench.reactor, 1)
    assert connecting.disconnected
    assert waiting.disconnected
    assert bench.ended() == {"killed": 2}
    assert bench.service.capacity.sessions == 0
    assert bench.row["connections"] == 0


def test_all_sessions_of_a_back_end_are_killed(bench: Bench) -> None:
    streams = [bench.session() for _ in range(20)]
    with logged() as events:
        assert bench.done(bench.control.kill_all, TARGET) == 20
    run(bench.reactor, 1)
    assert all(client.disconnected and server.disconnected for client, server in streams)
    assert (bench.ended(), bench.row["connections"]) == ({"killed": 20}, 0)
    assert texts(events) == [f"back-end {BACKEND}: 20 session(s) ended (by an operator)"]


def test_sessions_are_shed_until_none_of_them_is_left(bench: Bench) -> None:
    for _ in range(6):
        bench.session()
    with logged() as events:
        assert bench.done(bench.control.shed, TARGET, 4.0) == 6
        run(bench.reactor, 1.5)
        assert 2 <= bench.ended()["shed"] <= 4
        bench.session()
        run(bench.reactor, 2)
    assert bench.ended() == {"shed": 6}
    assert bench.row["connections"] == 1
    assert texts(events) == [
        f"back-end {BACKEND}: 6 session(s) are shed, at most 4 a second (by an operator)",
        f"back-end {BACKEND}: 6 session(s) were shed: none is left of those that it had",
    ]


def test_shedding_can_be_ended(bench: Bench) -> None:
    for _ in range(6):
        bench.session()
    bench.done(bench.control.shed, TARGET, 1)
    run(bench.reactor, 2)
    shed = bench.ended()["shed"]
    with logged() as events:
        assert bench.done(bench.control.shed, TARGET, 0) == 6 - shed
        assert bench.done(bench.control.shed, TARGET, 0) == 6 - shed
    assert texts(events) == [f"back-end {BACKEND}: {shed} session(s) were shed, and no more are (by an operator)"]
    run(bench.reactor, 10)
    assert bench.ended() == {"shed": shed}


@pytest.mark.parametrize("rate", [-1.0, 10001.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(bench: Bench, rate: float) -> None:
    assert "0 to 10000 a second" in bench.refused(Refusal, bench.control.shed, TARGET, rate)


@pytest.mark.parametrize(
    ("service", "backend", "said"),
    [
        ("defualt", BACKEND, "there is no service defualt; there is default"),
        ("default", "10.0.0.1:8001", "service default has no back-end 10.0.0.1:8001; there is 10.0.0.1:8000"),
        ("default", "10.0.0.2:8000", "service default has no back-end 10.0.0.2:8000; there is 10.0.0.1:8000"),
        ("default", "x", "service default has no back-end x"),
        ("default", "", "service default has no back-end "),
        ("default", "10.0.0.1:08000", "service default has no back-end 10.0.0.1:08000; there is 10.0.0.1:8000"),
        ("default", "[10.0.0.1]:8000", "service default has no back-end [10.0.0.1]:8000; there is 10.0.0.1:8000"),
        ("default", "10.0.0.1:٨000", "service default has no back-end 10.0.0.1:٨000; there is 10.0.0.1:8000"),
        ("default", "10.0.0.1:" + "9" * 5000, None),
    ],
)
def test_what_there_is_not_is_unknown_and_what_is_like_it_is_named(
    bench: Bench, service: str, backend: str, said: str | None
) -> None:
    target = Target(service, backend)
    for call in (bench.control.drain, bench.control.maint, bench.control.ready, bench.control.kill_all):
        text = bench.refused(Unknown, call, target)
        assert said is None or text == said
    bench.refused(Unknown, bench.control.weigh, target, 1)
    bench.refused(Unknown, bench.control.shed, target, 1)


def test_a_stop_leaves_no_timer() -> None:
    bench = Bench(drain_timeout_s=0)
    bench.session()
    bench.done(bench.control.shed, TARGET, 1)
    bench.service.stopService()
    run(bench.reactor, 1)
    assert bench.reactor.getDelayedCalls() == []


def visitor(bench: Bench) -> Stream:
    """A client whose back-end does not answer, or that waits for one."""
    protocol = bench.reactor.tcpServers[0][1].buildProtocol(IPv4Address("TCP", "192.0.2.1", 4322))
    assert protocol is not None
    client = Stream(bench.reactor, protocol)
    protocol.makeConnection(client)
    return client
