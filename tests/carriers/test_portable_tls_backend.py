"""TLS to back-ends: a handshake is part of the connect. Real TLS, on transports in memory."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone

from rproxy.carriers.portable.carrier import ClientFactory, PortableCarrier
from rproxy.net.tls_client import ClientTls
from rproxy.net.tls_settings import SendTlsConfig
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.outbound import Outbound
from rproxy.sessions.session import CONNECT_TIMEOUT_S
from rproxy.tap.service import serve_pool
from rproxy.timing.wheel import TICK_S, Wheel
from tests.certificates import Authority, Files
from tests.fakes import Reactor, Stream, logged, pool_with, run, texts

CLIENT = IPv4Address("TCP", "192.0.2.1", 4321)


class Backend:
    """A back-end on Python's own TLS, at the other end of a stream in memory."""

    def __init__(self, stream: Stream, files: Files, client_ca: Path | None = None) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*files.pair)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        self.stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def take(self) -> None:
        self._incoming.write(self.stream.value())
        self.stream.clear()

    def give(self) -> None:
        data = self._outgoing.read()
        if data and self.stream.connected:
            self.stream.receive(data)

    def read(self) -> bytes:
        self.take()
        with suppress(ssl.SSLWantReadError):
            return self.tls.read(1 << 16)
        return b""


class Bench:
    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.reactor = Reactor()
        self.served = serve_pool(pool_with(2), self.reactor)
        self.service, self.counters = self.served.service, self.served.counters
        self.service.outbound = Outbound(
            tls=ClientTls(SendTlsConfig(ca=str(self.authority.path), server_name="b.example"))
        )
        self.deadlines = Wheel(self.reactor)
        self.carrier = PortableCarrier(self.reactor, self.deadlines, Capacity(100, self.reactor.seconds))

    def client(self) -> Stream:
        protocol: Any = ClientFactory(self.carrier, self.service, "").buildProtocol(CLIENT)
        stream = Stream(self.reactor, protocol)
        protocol.makeConnection(stream)
        return stream

    def accept(self, files: Files, client_ca: Path | None = None) -> Backend:
        """TCP to the back-end that was chosen is established; its TLS has not begun."""
        return Backend(self.reactor.connects[-1].succeed(), files, client_ca)

    def turn(self) -> None:
        run(self.reactor, 0.001)

    def shake_hands(self, backend: Backend) -> Backend:
        for _ in range(4):
            self.turn()
            backend.take()
            with suppress(ssl.SSLError):
                backend.tls.do_handshake()
            backend.give()
        self.turn()
        return backend

    def assert_over(self, ending: Ending) -> None:
        assert self.counters.endings == {ending: 1}
        assert (self.carrier.capacity.sessions, len(self.deadlines)) == (0, 0)
        assert not any(backend.connections for backend in self.service.pool)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Authority.root(tmp_path))


@pytest.fixture
def good(bench: Bench) -> Files:
    return bench.authority.issue("b.example")


def test_a_session_is_connected_when_the_handshake_is_complete(bench: Bench, good: Files) -> None:
    client = bench.client()
    client.receive(b"question")
    backend = bench.accept(good)
    bench.turn()
    assert not bench.carrier.clients.copy().pop().session.is_connected
    bench.shake_hands(backend)
    assert bench.carrier.clients.copy().pop().session.is_connected
    assert backend.read() == b"question"
    backend.tls.write(b"answer")
    backend.give()
    bench.turn()
    assert client.value() == b"answer"
    with suppress(ssl.SSLWantReadError):
        backend.tls.unwrap()
    backend.give()
    bench.turn()
    assert client.ended is ConnectionDone
    bench.assert_over(Ending.CLOSED)


def test_a_certificate_that_does_not_verify_is_a_failed_connect_and_another_backend_is_tried(
    bench: Bench, good: Files
) -> None:
    client = bench.client()
    client.receive(b"question")
    first = bench.reactor.connects[-1]
    with logged() as events:
        bench.shake_hands(bench.accept(bench.authority.issue("other.example")))
    assert texts(events) == [
        f"back-end {first.address[0]}:80: TLS handshake failed: its certificate is not for b.example"
    ]
    assert bench.service.tls_failures.with_backends == 1
    assert (len(bench.reactor.connects), bench.counters.redispatches) == (2, 1)
    assert bench.reactor.connects[-1].address != first.address
    assert bench.shake_hands(bench.accept(good)).read() == b"question"
    client.reset()
    run(bench.reactor, 1.0)
    bench.assert_over(Ending.CLIENT_RESET)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong version number"),
        (b"220 mail.example ESMTP\r\n", "wrong version number"),
    ],
)
def test_a_backend_without_tls_is_a_failed_connect(answer: bytes, reason: str, bench: Bench) -> None:
    bench.client()
    with logged() as events:
        stream = bench.reactor.connects[-1].succeed()
        bench.turn()
        stream.receive(answer)
        bench.turn()
    assert [line.rpartition(": ")[2] for line in texts(events)] == [reason]
    assert len(bench.reactor.connects) == 2


def test_a_backend_that_closes_instead_is_a_failed_connect(bench: Bench) -> None:
    bench.client()
    with logged() as events:
        stream = bench.reactor.connects[-1].succeed()
        bench.turn()
        stream.receive_end()
        bench.turn()
    assert [line.rpartition(": ")[2] for line in texts(events)] == ["the connection was closed"]
    assert len(bench.reactor.connects) == 2


def test_a_backend_that_does_not_shake_hands_in_time_is_a_failed_connect(bench: Bench) -> None:
    bench.client()
    stream = bench.reactor.connects[-1].succeed()
    with logged() as events:
        run(bench.reactor, CONNECT_TIMEOUT_S + 2 * TICK_S)
    assert stream.ended is ConnectionAborted
    assert [line.rpartition(": ")[2] for line in texts(events)] == ["it took too long"]
    assert len(bench.reactor.connects) == 2


def test_a_refused_connect_is_one_as_without_tls(bench: Bench) -> None:
    bench.client()
    with logged() as events:
        bench.reactor.connects[-1].fail(error.ConnectionRefusedError())
    assert len(bench.reactor.connects) == 2
    assert texts(events) == []
    run(bench.reactor, CONNECT_TIMEOUT_S + 2 * TICK_S)
    assert [connector.state for connector in bench.reactor.connects] == ["disconnected"] * 2


@pytest.mark.parametrize("shaking", [False, True])
def test_a_client_that_leaves_meanwhile_leaves_nothing(shaking: bool, bench: Bench, good: Files) -> None:
    client = bench.client()
    if shaking:
        bench.accept(good)
        bench.turn()
    with logged() as events:
        client._lose(ConnectionDone())
        run(bench.reactor, 1.0)
    assert texts(events) == []
    assert bench.service.tls_failures.with_backends == 0
    bench.assert_over(Ending.CLIENT_GONE)


@pytest.mark.parametrize("shaking", [False, True])
def test_a_stop_meanwhile_leaves_nothing(shaking: bool, bench: Bench, good: Files) -> None:
    bench.client()
    if shaking:
        bench.accept(good)
        bench.turn()
    bench.carrier.abort()
    run(bench.reactor, 1.0)
    bench.assert_over(Ending.STOPPED)


def test_a_backend_that_refuses_our_certificate_after_its_handshake_is_a_failed_connect(
    bench: Bench, good: Files
) -> None:
    """TLS 1.3: to us the handshake is complete before the back-end has seen our certificate, or that there is none."""
    bench.client()
    with logged() as events:
        bench.shake_hands(bench.accept(good, bench.authority.path))
    (line,) = texts(events)
    assert line.endswith("certificate required")
    assert len(bench.reactor.connects) == 2


def test_a_reset_is_passed_on(bench: Bench, good: Files) -> None:
    client = bench.client()
    backend = bench.shake_hands(bench.accept(good))
    backend.tls.write(b"half an answer")
    backend.give()
    backend.stream.reset()
    run(bench.reactor, 1.0)
    assert client.value() == b"half an answer"
    assert client.ended is ConnectionAborted
    bench.assert_over(Ending.BACKEND_RESET)
