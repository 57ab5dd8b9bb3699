"""The factory and the paired protocols on transports in memory; real sockets are in tests/integration."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone

from rproxy.carriers.portable.carrier import ClientFactory, PortableCarrier
from rproxy.policies.least_connections import LeastConnectionsPolicy
from rproxy.pool.policy import Policy
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.redispatch import EARLY_DATA_MAX
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.session import CONNECT_TIMEOUT_S, FLUSH_BACKEND_S
from rproxy.tap.service import serve_pool
from rproxy.timing.wheel import TICK_S, Wheel
from tests.carriers.splicing import LoopbackEndpoint
from tests.fakes import Connector, CountingPolicy, Reactor, Stream, connected, logged, pool_with, run

CLIENT = IPv4Address("TCP", "192.0.2.1", 40000)


class Proxy:
    """A carrier with `up` back-ends."""

    def __init__(self, up: int = 1, policy: Policy | None = None) -> None:
        self.reactor = Reactor()
        self.served = serve_pool(pool_with(up, policy or LeastConnectionsPolicy()), self.reactor)
        self.service, self.counters = self.served.service, self.served.counters
        self.deadlines = Wheel(self.reactor)
        reactor: Any = self.reactor
        self.carrier = PortableCarrier(reactor, self.deadlines, Capacity(100, self.reactor.seconds))

    def client(self) -> Stream:
        protocol: Any = ClientFactory(self.carrier, self.service, "").buildProtocol(CLIENT)
        stream = Stream(self.reactor, protocol)
        protocol.makeConnection(stream)
        return stream

    def connector(self) -> Connector:
        return self.reactor.connects[-1]

    def joined(self) -> tuple[Stream, Stream]:
        client = self.client()
        return client, self.connector().succeed()

    def turn(self) -> None:
        run(self.reactor, 0.01)

    def connections(self) -> list[int]:
        return [backend.connections for backend in self.service.pool]

    def assert_over(self, ending: Ending) -> None:
        assert self.counters.endings == {ending: 1}
        assert self.carrier.capacity.sessions == self.service.capacity.sessions == 0
        assert not any(self.connections())
        assert len(self.deadlines) == 0


def test_bytes_go_both_ways() -> None:
    proxy = Proxy()
    client, backend = proxy.joined()
    client.receive(b"question")
    backend.receive(b"answer")
    proxy.turn()
    assert (backend.value(), client.value()) == (b"question", b"answer")


def test_what_a_client_sends_early_is_kept_in_order_and_bounded() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.receive(b"a" * (EARLY_DATA_MAX - 1))
    assert client.reading
    client.receive(b"b")
    assert not client.reading
    backend = proxy.connector().succeed()
    assert client.reading
    client.receive(b"c")
    proxy.turn()
    assert backend.value() == b"a" * (EARLY_DATA_MAX - 1) + b"bc"


@pytest.mark.parametrize("slow_is_client", [True, False])
def test_a_slow_reader_stops_the_reading_for_it(slow_is_client: bool) -> None:
    proxy = Proxy()
    client, backend = proxy.joined()
    slow, fast = (client, backend) if slow_is_client else (backend, client)
    slow.stalled = True
    fast.receive(b"x" * (Stream.HIGH_WATER + 1))
    assert not fast.reading
    assert slow.reading
    slow.unstall()
    proxy.turn()
    assert fast.reading
    assert len(slow.value()) == Stream.HIGH_WATER + 1


@pytest.mark.parametrize("first_is_client", [True, False])
def test_an_end_of_stream_is_passed_on_and_the_other_direction_goes_on(first_is_client: bool) -> None:
    proxy = Proxy()
    client, backend = proxy.joined()
    first, second = (client, backend) if first_is_client else (backend, client)
    first.receive(b"last words")
    first.receive_end()
    proxy.turn()
    assert second.write_ended
    assert second.value() == b"last words"
    assert first.connected
    second.receive(b"reply")
    proxy.turn()
    assert first.value() == b"reply"
    second.receive_end()
    proxy.turn()
    assert first.ended is ConnectionDone
    assert second.ended is ConnectionDone
    proxy.assert_over(Ending.CLOSED)


def test_an_end_of_stream_before_the_connect_follows_the_early_bytes() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.receive(b"all of it")
    client.receive_end()
    backend = proxy.connector().succeed()
    proxy.turn()
    assert (backend.value(), backend.write_ended) == (b"all of it", True)


def test_a_backends_reset_reaches_the_client_after_what_was_read() -> None:
    proxy = Proxy()
    client, backend = proxy.joined()
    client.stalled = True
    backend.receive(b"half an answer")
    backend.reset()
    run(proxy.reactor, 0.5)
    assert client.connected
    client.unstall()
    run(proxy.reactor, 0.5)
    assert client.value() == b"half an answer"
    assert client.ended is ConnectionAborted
    proxy.assert_over(Ending.BACKEND_RESET)


def test_a_clients_reset_reaches_the_backend_though_it_reads_nothing() -> None:
    proxy = Proxy()
    client, backend = proxy.joined()
    backend.stalled = True
    client.receive(b"half a question")
    client.reset()
    run(proxy.reactor, 1.0)
    assert backend.ended is ConnectionAborted
    proxy.assert_over(Ending.CLIENT_RESET)


def test_a_refused_connect_goes_to_another_backend() -> None:
    proxy = Proxy(up=2)
    client = proxy.client()
    refused = proxy.connector()
    refused.fail(ConnectError(errno.ECONNREFUSED))
    assert proxy.connector().address != refused.address
    backend = proxy.connector().succeed()
    client.receive(b"hello")
    proxy.turn()
    assert backend.value() == b"hello"


def test_a_connect_that_takes_too_long_goes_to_another_backend() -> None:
    proxy = Proxy(up=2)
    proxy.client()
    slow = proxy.connector()
    run(proxy.reactor, CONNECT_TIMEOUT_S + 0.2)
    assert slow.state == "disconnected"
    assert proxy.connector().address != slow.address
    assert proxy.connector().state == "connecting"


@pytest.mark.parametrize(("error", "is_fault"), [(errno.ECONNREFUSED, True), (errno.EADDRNOTAVAIL, False)])
def test_only_the_backends_own_failures_are_held_against_it(error: int, is_fault: bool) -> None:
    policy = CountingPolicy()
    proxy = Proxy(up=2, policy=policy)
    proxy.client()
    proxy.connector().fail(ConnectError(error))
    assert bool(policy.told["failed"]) is is_fault


def test_a_client_that_goes_while_connecting_cancels_the_connect() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.reset()
    run(proxy.reactor, FLUSH_BACKEND_S + 2 * TICK_S)
    assert proxy.connector().state == "disconnected"
    proxy.assert_over(Ending.CLIENT_GONE)


def test_the_back_end_of_a_client_that_resets_while_connecting_gets_what_it_sent_and_the_reset() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.receive(b"question")
    client.reset()
    backend = proxy.connector().succeed()
    run(proxy.reactor, FLUSH_BACKEND_S + 2 * TICK_S)
    assert (backend.value(), backend.ended) == (b"question", ConnectionAborted)
    proxy.assert_over(Ending.CLIENT_RESET)


def test_a_stop_ends_the_connect_for_a_client_that_has_reset() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.receive(b"question")
    client.reset()
    proxy.carrier.abort()
    assert proxy.connector().state == "disconnected"
    proxy.assert_over(Ending.STOPPED)


def test_a_client_is_refused_when_there_is_no_back_end() -> None:
    proxy = Proxy(up=0)
    client = proxy.client()
    proxy.turn()
    assert client.ended is ConnectionDone
    proxy.assert_over(Ending.NO_BACKEND)


def test_abort_ends_every_session_on_both_sides() -> None:
    proxy = Proxy()
    client, backend = proxy.joined()
    proxy.carrier.abort()
    run(proxy.reactor, 1.0)
    assert client.ended is ConnectionAborted
    assert backend.ended is ConnectionAborted
    proxy.assert_over(Ending.STOPPED)


class BrokenSocket(socket.socket):
    """A socket on which a reset has arrived."""

    def getsockopt(self, level: int, option: int, *_: Any) -> Any:
        return errno.ECONNRESET if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR) else 0


def test_a_reset_that_the_reactor_takes_for_an_end_of_stream_is_passed_on_as_a_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twisted's epoll reactor does, when the error event comes without readable data."""
    proxy = Proxy()
    client, backend = proxy.joined()
    backend.receive(b"half an answer")
    with BrokenSocket() as handle:
        monkeypatch.setattr(backend, "getHandle", lambda: handle, raising=False)
        backend.receive_end()
        run(proxy.reactor, 0.5)
    assert client.value() == b"half an answer"
    assert not client.write_ended
    assert client.ended is ConnectionAborted
    proxy.assert_over(Ending.BACKEND_RESET)


def test_full_capacity_pauses_the_ports_until_a_session_has_ended() -> None:
    proxy = Proxy()
    endpoint = LoopbackEndpoint(proxy.reactor)
    for _ in range(3):
        proxy.carrier.serve(endpoint, proxy.service)  # type: ignore[arg-type]
    stopped, *ports = endpoint.ports
    stopped.stopListening()
    proxy.turn()
    proxy.carrier.capacity.sessions_max = 2
    client, _ = proxy.joined()
    assert set(proxy.reactor.getReaders()) == set(ports)
    with logged():
        proxy.joined()
    assert proxy.reactor.getReaders() == []
    client.reset()
    run(proxy.reactor, 1)
    assert proxy.carrier.capacity.sessions == 1
    assert set(proxy.reactor.getReaders()) == set(ports)
    for port in ports:
        port.stopListening()
    proxy.turn()
    assert proxy.reactor.getReaders() == []


@pytest.mark.parametrize("up", [0, 1])
def test_a_client_that_waits_or_whose_back_end_does_not_answer_is_listed_and_can_be_cut(up: int) -> None:
    proxy = Proxy(up)
    proxy.service.use_terms(ServiceTerms(wait_s=5.0))
    client = proxy.client()
    ((session,),) = proxy.carrier.slices()
    session.link.cut(Ending.KILLED)
    run(proxy.reactor, 6)
    assert client.ended is ConnectionAborted
    assert list(proxy.carrier.slices()) == []
    proxy.assert_over(Ending.KILLED)


def test_a_session_is_known_by_what_it_carries_and_can_be_cut() -> None:
    proxy = Proxy()
    proxy.client()
    assert connected(proxy.carrier) == []
    backend = proxy.connector().succeed()
    (session,) = connected(proxy.carrier)
    backend.receive(b"answer")
    assert (session.link.carried(), session.link.unsent()) == ((0, 6), 0)
    session.link.cut(Ending.IDLE)
    run(proxy.reactor, 1)
    assert backend.ended is ConnectionAborted
    assert connected(proxy.carrier) == []
    assert (proxy.counters.up, proxy.counters.down) == (0, 6)
    proxy.assert_over(Ending.IDLE)


@pytest.mark.parametrize("early", [True, False])
def test_a_half_close_is_noted_by_the_session(early: bool) -> None:
    proxy = Proxy()
    client = proxy.client()
    if early:
        client.receive_end()
        proxy.connector().succeed()
    else:
        proxy.connector().succeed()
        client.receive_end()
    assert [session.half_closed for session in connected(proxy.carrier)] == [True]
