"""TLS handshakes with clients, on transports in memory: how many and how long, and what is said of those that fail."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost

from rproxy.carriers.portable.carrier import ClientFactory, PortableCarrier
from rproxy.carriers.portable.handshakes import HANDSHAKE_S
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.tap.service import serve_pool
from rproxy.timing.wheel import TICK_S, Wheel
from tests.fakes import Reactor, TlsStream, logged, pool_with, run, texts

CLIENT = IPv4Address("TCP", "192.0.2.1", 4321)
MOST = 20


class Bench:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.served = serve_pool(pool_with(1), self.reactor)
        self.deadlines = Wheel(self.reactor)
        self.carrier = PortableCarrier(self.reactor, self.deadlines, Capacity(MOST, self.reactor.seconds))

    def client(self) -> TlsStream:
        protocol: Any = ClientFactory(self.carrier, self.served.service, "").buildProtocol(CLIENT)
        stream = TlsStream(self.reactor, protocol)
        protocol.makeConnection(stream)
        return stream

    def assert_over(self, **endings: int) -> None:
        assert {ending.name.lower(): count for ending, count in self.served.counters.endings.items()} == endings
        assert (self.carrier.capacity.sessions, len(self.carrier.handshakes), len(self.deadlines)) == (0, 0, 0)


def test_a_handshake_that_takes_too_long_is_reset_and_logged() -> None:
    bench = Bench()
    with logged() as events:
        client = bench.client()
        run(bench.reactor, HANDSHAKE_S - 2 * TICK_S)
        assert client.connected
        run(bench.reactor, 3 * TICK_S)
    assert client.ended is ConnectionAborted
    assert texts(events) == ["192.168.1.1:54321: TLS handshake failed: it took more than 10 s"]
    bench.assert_over(handshake=1)


def test_beyond_half_of_the_sessions_the_oldest_makes_room() -> None:
    bench = Bench()
    with logged() as events:
        clients = [bench.client() for _ in range(MOST // 2 + 2)]
        run(bench.reactor, TICK_S)
    assert [client.ended for client in clients] == [ConnectionAborted] * 2 + [None] * (MOST // 2)
    assert "192.168.1.1:54321: TLS handshake failed: too many others began one meanwhile" in texts(events)
    clients[2].shake_hands()
    assert len(bench.reactor.connects) == 1
    assert len(bench.carrier.handshakes) == MOST // 2 - 1
    bench.carrier.abort()
    run(bench.reactor, TICK_S)
    bench.assert_over(handshake=2, stopped=MOST // 2)


def test_completed_handshakes_are_none_any_more() -> None:
    bench = Bench()
    for _ in range(MOST // 2 + 5):
        bench.client().shake_hands()
    run(bench.reactor, TICK_S)
    assert len(bench.carrier.handshakes) == 0
    assert bench.served.counters.endings == {}


ERROR = SSL.Error([("SSL routines", "", "no shared cipher")])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ERROR, ["192.168.1.1:54321: TLS handshake failed: no shared cipher"]),
        (ConnectionDone(), []),
        (ConnectionLost(), []),
    ],
    ids=["an error", "a client that leaves", "a client that resets"],
)
def test_a_failure_is_counted_and_logged_unless_the_client_just_leaves(error: Exception, line: list[str]) -> None:
    bench = Bench()
    with logged() as events:
        bench.client()._lose(error)
    assert texts(events) == line
    bench.assert_over(handshake=1)


def test_a_client_that_leaves_later_has_not_failed_its_handshake() -> None:
    bench = Bench()
    client = bench.client()
    client.shake_hands()
    client._lose(ConnectionDone())
    run(bench.reactor, TICK_S)
    assert bench.served.counters.endings == {Ending.CLIENT_GONE: 1}


def test_a_client_whose_handshake_is_not_complete_is_listed_and_can_be_cut() -> None:
    bench = Bench()
    with logged() as events:
        client = bench.client()
        ((session,),) = bench.carrier.slices()
        session.link.cut(Ending.KILLED)
        run(bench.reactor, HANDSHAKE_S + 1)
    assert client.ended is ConnectionAborted
    assert texts(events) == []
    bench.assert_over(killed=1)
