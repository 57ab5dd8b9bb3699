"""How the portable carrier's connections fail, end and are cut off, on transports in memory."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone

from rproxy.carriers.portable import client_side, flush
from rproxy.carriers.portable.carrier import ClientFactory, PortableCarrier
from rproxy.carriers.portable.handshakes import HANDSHAKE_S
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.record import SessionRecord
from rproxy.sessions.redispatch import EARLY_DATA_MAX
from rproxy.sessions.service import DEFAULT_TERMS, ServiceTerms
from rproxy.sessions.session import CONNECT_TIMEOUT_S, FLUSH_CLIENT_S
from rproxy.tap.service import serve_pool
from rproxy.timing.wheel import TICK_S, Wheel
from tests.fakes import (
    Connector,
    CountingPolicy,
    Reactor,
    Stream,
    TlsStream,
    connected,
    logged,
    pool_with,
    run,
    texts,
)

REFUSED = error.ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
CLIENT = IPv4Address("TCP", "192.0.2.1", 4321)


def close(stream: Stream) -> None:
    """The peer ends both directions at once, as with TLS."""
    stream._lose(ConnectionDone())


class Bench:
    def __init__(self, up: int = 3, terms: ServiceTerms = DEFAULT_TERMS) -> None:
        self.reactor = Reactor()
        self.policy = CountingPolicy()
        self.pool = pool_with(up, self.policy)
        self.clients: list[str] = []
        """Addresses of the clients of sessions that have ended, as their records had them."""
        self.served = serve_pool(self.pool, self.reactor, terms, observers=[self])
        self.service, self.counters = self.served.service, self.served.counters
        self.deadlines = Wheel(self.reactor)
        self.carrier = PortableCarrier(self.reactor, self.deadlines, Capacity(100, self.reactor.seconds))

    def session_ended(self, record: SessionRecord) -> None:
        self.clients.append(record.client)

    def accept(self, kind: type[Stream] = Stream) -> Any:
        protocol = ClientFactory(self.carrier, self.service, "").buildProtocol(CLIENT)
        assert protocol is not None
        stream = kind(self.reactor, protocol)
        protocol.makeConnection(stream)
        return stream

    @property
    def connecting(self) -> Connector:
        connector = self.reactor.connects[-1]
        assert connector.state == "connecting"
        return connector

    def joined(self, kind: type[Stream] = Stream) -> tuple[Stream, Stream]:
        client = self.accept(kind)
        if kind is TlsStream:
            client.shake_hands()
        return client, self.connecting.succeed()

    def settle(self, seconds: float = 0.0) -> None:
        run(self.reactor, seconds)

    @property
    def tried(self) -> list[str]:
        return [connector.address[0] for connector in self.reactor.connects]

    @property
    def counted_failures(self) -> list[str]:
        return [backend.address for backend in self.policy.told["failed"].elements()]

    def assert_over(self, *endings: Ending) -> None:
        """The sessions have ended like this, in order, and left nothing behind."""
        self.settle(2 * TICK_S)
        assert list(self.counters.endings.elements()) == list(endings)
        assert self.carrier.capacity.sessions == 0
        assert [backend.connections for backend in self.pool] == [0] * len(self.pool)
        assert self.policy.told["opened"] == self.policy.told["closed"]
        assert (len(self.deadlines), self.reactor.getDelayedCalls()) == (0, [])


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("upwards", [True, False], ids=["to the back-end", "to the client"])
def test_an_end_of_stream_comes_after_all_that_was_sent_before_it(bench: Bench, upwards: bool) -> None:
    client, backend = bench.joined()
    source, sink = (client, backend) if upwards else (backend, client)
    sink.stalled = True
    source.receive(b"x" * 50_000)
    source.receive_end()
    bench.settle(3)
    before = sink.write_ended
    sink.unstall()
    bench.settle()
    assert (before, sink.write_ended, len(sink.value())) == (False, True, 50_000)


def test_a_slow_client_gets_everything_after_its_backend_has_closed(bench: Bench) -> None:
    client, backend = bench.joined()
    client.receive_end()
    client.stalled = True
    backend.receive(b"x" * 60_000)
    backend.receive_end()
    bench.settle(20)
    assert client.connected
    client.unstall()
    bench.settle()
    assert (len(client.value()), client.ended) == (60_000, ConnectionDone)
    bench.assert_over(Ending.CLOSED)


def test_a_tls_client_that_closes_closes_its_backend_after_what_it_sent(bench: Bench) -> None:
    client, backend = bench.joined(TlsStream)
    client.receive(b"request")
    close(client)
    bench.settle()
    assert (backend.value(), backend.ended) == (b"request", ConnectionDone)
    bench.assert_over(Ending.CLOSED)


def test_a_tls_client_is_closed_when_its_backend_ends_the_stream(bench: Bench) -> None:
    client, backend = bench.joined(TlsStream)
    backend.receive(b"answer")
    backend.receive_end()
    bench.settle()
    assert (client.value(), client.ended, backend.ended) == (b"answer", ConnectionDone, ConnectionDone)
    bench.assert_over(Ending.CLOSED)


def test_a_tls_client_gets_its_backend_after_the_handshake_and_all_the_time_to_connect_to_it(bench: Bench) -> None:
    client = bench.accept(TlsStream)
    bench.settle(HANDSHAKE_S - 1)
    assert bench.tried == []
    client.shake_hands()
    bench.settle(CONNECT_TIMEOUT_S - 0.2)
    bench.connecting.succeed()
    bench.settle(HANDSHAKE_S)
    assert client.connected


def test_a_tls_client_that_does_not_complete_its_handshake_in_time_is_reset(bench: Bench) -> None:
    client = bench.accept(TlsStream)
    bench.settle(HANDSHAKE_S - 0.1)
    assert client.connected
    bench.settle(0.2 + TICK_S)
    assert (client.ended, bench.tried) == (ConnectionAborted, [])
    bench.assert_over(Ending.HANDSHAKE)


def test_a_tls_client_that_leaves_before_its_handshake_leaves_nothing(bench: Bench) -> None:
    close(bench.accept(TlsStream))
    assert bench.tried == []
    bench.assert_over(Ending.HANDSHAKE)


def test_a_tls_client_that_is_refused_and_sends_no_close_notify_is_reset() -> None:
    bench = Bench(up=0)
    client = bench.accept(TlsStream)
    client.loseConnection = lambda: None  # waits for the client's close_notify
    client.shake_hands()
    bench.settle(HANDSHAKE_S - 0.1)
    assert client.connected
    bench.settle(0.2 + TICK_S)
    assert client.ended is ConnectionAborted
    bench.assert_over(Ending.NO_BACKEND)


@pytest.mark.parametrize(("sent", "ended"), [(b"", ConnectionDone), (b"upload", ConnectionAborted)])
def test_a_client_that_is_refused_is_reset_if_its_data_is_lost(
    bench: Bench, sent: bytes, ended: type[Exception]
) -> None:
    client = bench.accept()
    if sent:
        client.receive(sent)
    for _ in range(3):
        bench.connecting.fail(REFUSED)
    bench.settle()
    assert client.ended is ended
    bench.served.stop()
    bench.assert_over(Ending.UNREACHABLE)


def closed_by_the_client(bench: Bench) -> tuple[Stream, Stream]:
    """A TLS client that has sent something and closed, and a back-end that reads nothing, which comes second."""
    client, backend = bench.joined(TlsStream)
    backend.stalled = True
    client.receive(b"the rest")
    close(client)
    return client, backend


def closed_by_both(bench: Bench) -> tuple[Stream, Stream]:
    """The same with both streams ended, and a client that does not read."""
    client, backend = bench.joined()
    client.stalled = True
    client.receive_end()
    backend.receive(b"the rest")
    backend.receive_end()
    return backend, client


leftovers = pytest.mark.parametrize("leave", [closed_by_the_client, closed_by_both])


@leftovers
def test_a_session_lasts_until_its_last_reader_has_everything(
    bench: Bench, leave: Callable[[Bench], tuple[Stream, Stream]]
) -> None:
    gone, left = leave(bench)
    bench.settle(10 * FLUSH_CLIENT_S)
    assert (gone.connected, left.connected, bench.carrier.capacity.sessions) == (False, True, 1)
    assert [session.half_closed for session in connected(bench.carrier)] == [True]
    left.unstall()
    bench.settle()
    assert (left.value(), left.ended) == (b"the rest", ConnectionDone)
    bench.assert_over(Ending.CLOSED)


@leftovers
def test_a_last_reader_that_never_reads_can_be_cut(
    bench: Bench, leave: Callable[[Bench], tuple[Stream, Stream]]
) -> None:
    _, left = leave(bench)
    bench.settle(1)
    (session,) = connected(bench.carrier)
    session.link.cut(Ending.HALF_CLOSED)
    bench.settle()
    assert left.ended is ConnectionAborted
    bench.assert_over(Ending.HALF_CLOSED)


def test_a_last_reader_is_reset_when_the_proxy_stops(bench: Bench) -> None:
    _, backend = closed_by_the_client(bench)
    bench.carrier.abort()
    bench.settle()
    assert backend.ended is ConnectionAborted
    bench.assert_over(Ending.STOPPED)


def test_a_last_reader_that_resets_has_not_been_closed_in_good_order(bench: Bench) -> None:
    _, backend = closed_by_the_client(bench)
    bench.settle(1)
    backend.reset()
    bench.assert_over(Ending.BACKEND_RESET)


def test_a_flush_before_a_reset_ends_when_the_proxy_stops(bench: Bench) -> None:
    client, backend = bench.joined()
    client.stalled = True
    backend.receive(b"last words")
    backend.reset()
    bench.settle(1)
    assert client.connected
    bench.carrier.abort()
    bench.settle()
    assert client.ended is ConnectionAborted
    bench.assert_over(Ending.BACKEND_RESET)


@pytest.mark.parametrize("reads", [True, False])
def test_a_client_has_time_to_read_the_answer_of_a_server_that_ended_and_is_gone(
    monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    """As when keepalive finds, after a minute, that a server has closed and forgotten the connection."""
    bench = Bench(terms=ServiceTerms(reader_timeout_s=20 * FLUSH_CLIENT_S))
    held = [100]
    monkeypatch.setattr(flush, "unacknowledged", lambda transport: held[0])
    client, backend = bench.joined()
    backend.receive(b"x" * 100)
    backend.receive_end()
    bench.settle(1)
    backend.reset()
    bench.settle(19 * FLUSH_CLIENT_S)
    assert client.connected
    if reads:
        held[0] = 0
        bench.settle(3 * TICK_S)
    else:
        bench.settle(FLUSH_CLIENT_S)
    assert client.ended is ConnectionAborted
    bench.assert_over(Ending.BACKEND_RESET)


def test_a_reset_waits_for_what_the_kernel_still_holds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [100]
    monkeypatch.setattr(flush, "unacknowledged", lambda transport: held[0])
    client, backend = bench.joined()
    backend.receive(b"x" * 100)
    backend.reset()
    bench.settle(5)
    assert client.connected
    held[0] = 0
    bench.settle(3 * TICK_S)
    assert (client.value(), client.ended) == (b"x" * 100, ConnectionAborted)
    bench.assert_over(Ending.BACKEND_RESET)


def test_a_client_that_never_reads_is_reset_when_its_time_is_over(bench: Bench) -> None:
    client, backend = bench.joined()
    client.stalled = True
    backend.receive(b"x")
    backend.reset()
    bench.settle(FLUSH_CLIENT_S / 2)
    assert client.connected
    bench.settle(FLUSH_CLIENT_S * 3)
    assert client.ended is ConnectionAborted
    bench.assert_over(Ending.BACKEND_RESET)


@pytest.mark.parametrize("client_first", [True, False], ids=["client", "back-end"])
def test_a_reset_of_the_other_side_while_one_is_passed_on_ends_both(bench: Bench, client_first: bool) -> None:
    client, backend = bench.joined()
    client.stalled = backend.stalled = True
    client.receive(b"x")
    backend.receive(b"x")
    for stream in (client, backend) if client_first else (backend, client):
        stream.reset()
    bench.assert_over(Ending.CLIENT_RESET if client_first else Ending.BACKEND_RESET)


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "back-end"])
def test_a_reset_after_one_stream_has_ended_ends_both(bench: Bench, by_client: bool) -> None:
    client, backend = bench.joined()
    client.receive_end()
    bench.settle(1)
    (client if by_client else backend).reset()
    bench.settle()
    assert not client.connected
    assert not backend.connected
    bench.assert_over(Ending.CLIENT_RESET if by_client else Ending.BACKEND_RESET)


def test_a_client_that_was_reset_while_it_is_not_read_from_is_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transport is paused, and does not read the reset."""
    client, backend = bench.joined()
    backend.stalled = True
    while client.reading:
        client.receive(b"x" * 10_000)
    bench.settle(1)
    assert client.connected
    monkeypatch.setattr(client_side, "was_reset", lambda transport: transport is client)
    bench.settle(1)
    assert (client.ended, backend.ended) == (ConnectionAborted, ConnectionAborted)
    bench.assert_over(Ending.CLIENT_RESET)


def test_a_client_that_was_reset_while_it_waits_to_be_connected_is_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = bench.accept()
    client.receive(b"x" * EARLY_DATA_MAX)
    connector = bench.connecting
    monkeypatch.setattr(client_side, "was_reset", lambda transport: True)
    bench.settle(1)
    assert (client.ended, connector.state) == (ConnectionAborted, "disconnected")
    bench.assert_over(Ending.CLIENT_GONE)


@pytest.mark.parametrize(
    ("failure", "is_fault"),
    [
        (REFUSED, True),
        (error.TCPTimedOutError(errno.ETIMEDOUT, "timed out"), True),
        (error.NoRouteError(errno.EHOSTUNREACH, "no route"), True),
        (ConnectError(string="anything"), True),
        (error.ConnectBindError(errno.EADDRINUSE, "in use"), False),
        (ConnectError(errno.EADDRNOTAVAIL), False),
        (ConnectError(errno.EMFILE), False),
        (ConnectError(errno.ENFILE), False),
        (ConnectError(errno.ENOBUFS), False),
        (ConnectError(errno.ENOMEM), False),
    ],
    ids=str,
)
def test_a_failed_connect_leads_to_another_back_end_and_counts_only_if_it_is_the_back_ends_fault(
    bench: Bench, failure: Exception, is_fault: bool
) -> None:
    bench.accept()
    bench.connecting.fail(failure)
    assert (bench.tried, bench.counted_failures) == (["10.0.0.1", "10.0.0.2"], ["10.0.0.1"] if is_fault else [])


def test_early_bytes_reach_the_backend_that_is_connected_at_last(bench: Bench) -> None:
    client = bench.accept()
    client.receive(b"one ")
    bench.connecting.fail(REFUSED)
    client.receive(b"two")
    backend = bench.connecting.succeed()
    bench.settle()
    assert backend.value() == b"one two"


def test_a_client_that_no_back_end_answers_is_refused_within_five_seconds() -> None:
    bench = Bench(up=5)
    client = bench.accept()
    with logged() as events:
        bench.settle(4)
        assert client.connected
        bench.settle(1)
    assert client.ended is ConnectionDone
    assert bench.tried == bench.counted_failures == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert "no back-end could be connected to" in texts(events)[0]
    bench.served.stop()
    bench.assert_over(Ending.UNREACHABLE)


def test_a_connected_backend_is_not_given_up_when_the_time_for_connecting_is_over(bench: Bench) -> None:
    client, backend = bench.joined()
    bench.settle(60)
    assert (client.ended, backend.ended, len(bench.tried), len(bench.deadlines)) == (None, None, 1, 0)


def test_sessions_do_not_touch_each_other(bench: Bench) -> None:
    one, one_backend = bench.joined()
    two, two_backend = bench.joined()
    one.receive(b"one")
    two_backend.receive(b"two")
    one_backend.receive(b"1")
    one_backend.reset()
    bench.settle()
    two.receive(b"more")
    bench.settle()
    assert (one.ended, two.ended, two_backend.ended) == (ConnectionAborted, None, None)
    assert (two.value(), two_backend.value()) == (b"two", b"more")
    assert bench.carrier.capacity.sessions == 1


def connecting(bench: Bench) -> None:
    bench.accept()


def half_closed(bench: Bench) -> None:
    bench.joined()[0].receive_end()


def held_up(bench: Bench) -> None:
    client, backend = bench.joined()
    backend.stalled = True
    while client.reading:
        client.receive(b"x" * 10_000)


def passing_on_a_close(bench: Bench) -> None:
    client, backend = bench.joined()
    client.stalled = True
    backend.receive(b"x")
    close(backend)


@pytest.mark.parametrize("begin", [connecting, half_closed, held_up, passing_on_a_close])
def test_abort_ends_every_session_in_whatever_state_it_is(bench: Bench, begin: Callable[[Bench], None]) -> None:
    begin(bench)
    begin(bench)
    bench.settle(0.5)
    bench.carrier.abort()
    bench.settle()
    assert all(connector.state != "connecting" for connector in bench.reactor.connects)
    bench.assert_over(Ending.STOPPED, Ending.STOPPED)


def connector_succeeds(connector: Connector) -> None:
    if connector.state == "connecting":
        connector.succeed()


def connector_fails(connector: Connector) -> None:
    if connector.state == "connecting":
        connector.fail(REFUSED)


@pytest.mark.parametrize("then", [connector_succeeds, connector_fails])
def test_a_connect_that_ends_in_the_turn_of_the_abort_starts_nothing(
    bench: Bench, then: Callable[[Connector], None]
) -> None:
    """Twisted reports the end of an aborted connection only in the next turn."""
    bench.accept()
    connector = bench.connecting
    bench.carrier.abort()
    then(connector)
    assert len(bench.tried) == 1
    bench.assert_over(Ending.STOPPED)


def test_a_session_without_a_trace_logs_nothing(bench: Bench) -> None:
    with logged() as events:
        client, backend = bench.joined()
        client.receive(b"request")
        backend.receive(b"answer")
        client.receive_end()
        backend.receive_end()
        bench.assert_over(Ending.CLOSED)
        client, backend = bench.joined()
        backend.reset()
        bench.settle(1)
    assert list(events) == []


class RecordingSocket(socket.socket):
    """Unconnected; keeps the options that are set on it."""

    def __init__(self, family: socket.AddressFamily) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self.error: OSError | None = None
        self.set: set[int] = set()

    def setsockopt(self, level: int, option: int, value: object, length: object = None) -> None:
        if self.error is not None:
            raise self.error
        assert level in (socket.SOL_SOCKET, socket.IPPROTO_TCP)
        self.set.add(option)

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        return option in self.set if option == socket.SO_OOBINLINE else super().getsockopt(level, option)


class SocketStream(Stream):
    handle: socket.socket

    def getHandle(self) -> socket.socket:
        return self.handle


ALIVE = {socket.SO_KEEPALIVE, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (socket.AF_INET, {socket.TCP_NODELAY, socket.SO_OOBINLINE, *ALIVE}),
        (socket.AF_INET6, {socket.TCP_NODELAY, socket.SO_OOBINLINE, *ALIVE}),
        (socket.AF_UNIX, set()),
    ],
    ids=["IPv4", "IPv6", "UNIX"],
)
def test_tcp_connections_are_sent_on_at_once_kept_alive_and_read_in_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, family: socket.AddressFamily, options: set[int]
) -> None:
    with RecordingSocket(family) as handle:
        monkeypatch.setattr(SocketStream, "handle", handle, raising=False)
        bench.accept(SocketStream)
        assert handle.set == options


def test_what_a_client_has_inherited_is_not_set_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with RecordingSocket(socket.AF_INET) as handle:
        handle.set.add(socket.SO_OOBINLINE)
        monkeypatch.setattr(SocketStream, "handle", handle, raising=False)
        bench.accept(SocketStream)
        assert handle.set == {socket.SO_OOBINLINE}


def test_a_backend_is_read_in_line_before_it_is_connected_and_kept_alive_only_if_it_lasts(bench: Bench) -> None:
    bench.accept()
    connector: Any = bench.connecting
    with RecordingSocket(socket.AF_INET) as handle:
        connector.transport = SimpleNamespace(socket=handle)
        connector._factory.startedConnecting(connector)
        assert handle.set == {socket.SO_OOBINLINE}
        handle.set.clear()
        backend = connector.succeed(handle)
        assert handle.set == {socket.TCP_NODELAY}
        bench.settle(1)
        assert handle.set == {socket.TCP_NODELAY, *ALIVE}
        handle.set.clear()
        bench.accept()
        other: Any = bench.connecting
        other.succeed(handle).reset()
        bench.settle(1)
        assert handle.set == {socket.TCP_NODELAY}
        assert backend.connected


def test_a_client_that_is_gone_before_its_options_are_set_is_still_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RecordingSocket(socket.AF_INET) as handle:
        handle.error = OSError(errno.EINVAL, "gone")
        monkeypatch.setattr(SocketStream, "handle", handle, raising=False)
        bench.accept(SocketStream)
    assert len(bench.tried) == 1


def test_an_observer_that_fails_costs_no_session_anything(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: SessionRecord) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(bench, "session_ended", fail)
    with logged() as events:
        client, _ = bench.joined()
        client.reset()
        bench.assert_over(Ending.CLIENT_RESET)
    assert [text.partition(";")[0] for text in texts(events)] == ["an observer of sessions failed"]
