"""PROXY headers in the portable carrier, on transports in memory; real sockets are in tests/integration."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any, Final

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory

from rproxy.carriers.portable.carrier import ClientFactory
from rproxy.carriers.portable.handshakes import HANDSHAKE_S
from rproxy.carriers.portable.header_reader import HeaderFactory
from rproxy.carriers.portable.outgoing_header import tls_of
from rproxy.sessions.endings import Ending
from rproxy.sessions.outbound import Outbound
from rproxy.sessions.proxy_headers import HEADER_S, ProxyHeaders
from rproxy.sessions.service import ServiceTerms
from rproxy.timing.wheel import TICK_S
from rproxy.wire.proxy_header import ALPN, AUTHORITY, LOCAL, SSL, UNIQUE_ID, encode
from tests.carriers.test_client_addresses import Nobody
from tests.carriers.test_portable_protocols import CLIENT, Proxy
from tests.fakes import Stream, TlsStream, logged, run, texts

SOURCE: Final = ("198.51.100.1", 1234)
DESTINATION: Final = ("198.51.100.2", 5678)
LINE: Final = encode(1, SOURCE, DESTINATION)
BINARY: Final = encode(2, SOURCE, DESTINATION, [(UNIQUE_ID, b"a unique id")])
HERE: Final = IPv4Address("TCP", "192.0.2.2", 80)


class Accepting(Proxy):
    """Accepts clients as a port does, in the factory that the carrier has put there."""

    def __init__(self, up: int = 1, *, networks: str = "192.0.2.0/24", send: int = 0) -> None:
        super().__init__(up)
        if networks:
            self.service.proxy_headers = ProxyHeaders([ip_network(networks)], self.reactor.seconds)
        self.service.outbound = Outbound(send_proxy=send)
        self.factory: Any = ClientFactory(self.carrier, self.service, "")

    def built(self, peer: Any = CLIENT) -> Any:
        return HeaderFactory(self.factory, self.carrier, self.service).buildProtocol(peer)

    def accept(self, peer: Any = CLIENT) -> Stream:
        stream = Stream(self.reactor, protocol := self.built(peer))
        stream.peerAddr, stream.hostAddr = peer, HERE
        protocol.makeConnection(stream)
        return stream


@pytest.mark.parametrize("header", [LINE, BINARY])
def test_a_header_may_come_in_single_bytes(header: bytes) -> None:
    proxy = Accepting()
    client = proxy.accept()
    for byte in header:
        assert not proxy.reactor.connects
        client.receive(bytes([byte]))
    assert client.protocol.session.link.client() == SOURCE
    backend = proxy.connector().succeed()
    client.receive(b"question")
    backend.receive(b"answer")
    proxy.turn()
    assert (backend.value(), client.value()) == (b"question", b"answer")
    assert client.protocol.session.up == 8
    assert client.protocol.session.link.client_address() == "198.51.100.1:1234"
    assert client.protocol.session.link.peer_address() == ("192.0.2.1", 40000)


@pytest.mark.parametrize("header", [LINE, BINARY])
def test_data_and_the_end_of_the_stream_may_follow_at_once(header: bytes) -> None:
    proxy = Accepting()
    client = proxy.accept()
    client.receive(header + b"question")
    client.receive_end()
    backend = proxy.connector().succeed()
    proxy.turn()
    assert (backend.value(), backend.write_ended) == (b"question", True)
    backend.receive(b"answer")
    backend.receive_end()
    proxy.turn()
    assert (client.value(), client.ended) == (b"answer", ConnectionDone)
    proxy.assert_over(Ending.CLOSED)


@pytest.mark.parametrize(
    ("sent", "flaw"),
    [(b"GET / HTTP/1.1\r\n", "does not begin as one"), (LINE[:-2] + b"\n", "no line of version 1")],
)
def test_a_bad_header_is_refused_with_a_reset(sent: bytes, flaw: str) -> None:
    proxy = Accepting()
    client = proxy.accept()
    with logged() as events:
        client.receive(sent)
    assert texts(events)[0] == f"192.0.2.1:40000 sent a bad PROXY header: {flaw}: refused"
    proxy.turn()
    assert client.ended is ConnectionAborted
    proxy.assert_over(Ending.BAD_HEADER)


@pytest.mark.parametrize(("begun", "ending"), [(b"", Ending.CLIENT_GONE), (b"PROXY ", Ending.BAD_HEADER)])
def test_an_end_within_a_header_is_a_bad_one_and_without_a_byte_the_client_is_gone(
    begun: bytes, ending: Ending
) -> None:
    proxy = Accepting()
    client = proxy.accept()
    client.receive(begun)
    client.receive_end()
    proxy.turn()
    assert client.ended is (ConnectionAborted if begun else ConnectionDone)
    proxy.assert_over(ending)


@pytest.mark.parametrize("begun", [b"", LINE[:20]])
def test_a_reset_within_a_header_leaves_nothing(begun: bytes) -> None:
    proxy = Accepting()
    client = proxy.accept()
    client.receive(begun)
    client.reset()
    proxy.assert_over(Ending.CLIENT_GONE)
    assert not proxy.carrier.clients


def test_a_header_has_to_be_complete_in_time() -> None:
    proxy = Accepting()
    client = proxy.accept()
    client.receive(LINE[:-1])
    run(proxy.reactor, HEADER_S - TICK_S)
    assert client.connected
    run(proxy.reactor, 3 * TICK_S)
    assert client.ended is ConnectionAborted
    proxy.assert_over(Ending.HEADER_TIMEOUT)


def test_a_complete_header_is_not_late() -> None:
    proxy = Accepting(up=0)
    proxy.service.terms = ServiceTerms(wait_s=60)
    client = proxy.accept()
    client.receive(LINE)
    run(proxy.reactor, 2 * HEADER_S)
    assert client.connected


def test_a_client_from_elsewhere_is_refused_before_it_is_read() -> None:
    proxy = Accepting(networks="10.0.0.0/8")
    client = proxy.accept()
    assert not client.reading
    proxy.turn()
    assert client.ended is ConnectionAborted
    proxy.assert_over(Ending.UNTRUSTED)


def test_the_other_clients_of_a_unix_socket_are_not_elsewhere() -> None:
    proxy = Accepting(networks="10.0.0.0/8", send=2)
    client = proxy.accept(UNIXAddress(b"/client"))
    client.hostAddr = UNIXAddress(b"/server")
    client.receive(LOCAL + b"question")
    backend = proxy.connector().succeed()
    proxy.turn()
    assert backend.value() == LOCAL + b"question"
    assert client.protocol.session.link.client_address() == "/client"


def test_a_gate_is_asked_behind_the_header_and_what_follows_is_dropped() -> None:
    proxy = Accepting()
    gate = proxy.service.gate = Nobody()
    client = proxy.accept()
    assert gate.asked == []
    client.receive(LINE + b"question")
    assert gate.asked == ["198.51.100.1"]
    proxy.turn()
    proxy.assert_over(Ending.DENIED)


def test_clients_whose_headers_are_awaited_are_ended_with_all_others() -> None:
    proxy = Accepting()
    client = proxy.accept()
    proxy.carrier.abort()
    proxy.turn()
    assert client.ended is ConnectionAborted
    proxy.assert_over(Ending.STOPPED)


def test_a_client_whose_header_is_awaited_is_listed_and_can_be_cut() -> None:
    proxy = Accepting()
    client = proxy.accept()
    ((session,),) = proxy.carrier.slices()
    session.link.cut(Ending.KILLED)
    proxy.turn()
    assert client.ended is ConnectionAborted
    assert not proxy.reactor.connects
    proxy.assert_over(Ending.KILLED)


def test_a_service_without_headers_pays_nothing_and_reads_none() -> None:
    proxy = Accepting(networks="")
    client = proxy.accept()
    client.receive(LINE)
    backend = proxy.connector().succeed()
    proxy.turn()
    assert backend.value() == LINE


class Layer(ProtocolWrapper):
    """A layer such as TLS, which is told of the connection only behind the header."""

    def makeConnection(self, transport: Any) -> None:
        self.made = True
        super().makeConnection(transport)


def test_a_header_is_read_below_any_layer_on_the_connection() -> None:
    proxy = Accepting()
    proxy.factory = WrappingFactory(proxy.factory)
    proxy.factory.protocol = Layer
    client = proxy.accept()
    assert not hasattr(client.protocol._above, "made")
    client.receive(LINE + b"question")
    assert client.protocol.made
    backend = proxy.connector().succeed()
    client.receive_end()
    proxy.turn()
    assert (backend.value(), backend.write_ended) == (b"question", True)


def test_a_tls_handshake_has_its_time_behind_the_header() -> None:
    proxy = Accepting()
    protocol = proxy.built()
    stream = TlsStream(proxy.reactor, protocol)
    stream.peerAddr = CLIENT
    protocol.makeConnection(stream)
    run(proxy.reactor, HEADER_S - 1)
    stream.receive(LINE)
    run(proxy.reactor, HANDSHAKE_S - 1)
    assert stream.connected
    run(proxy.reactor, 2)
    assert stream.ended is ConnectionAborted


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("data", [b"", b"question"])
def test_a_back_end_gets_a_header_before_what_the_client_has_sent(version: int, data: bytes) -> None:
    proxy = Accepting(networks="", send=version)
    client = proxy.accept()
    client.receive(data)
    backend = proxy.connector().succeed()
    proxy.turn()
    assert backend.value() == encode(version, ("192.0.2.1", 40000), ("192.0.2.2", 80)) + data
    assert client.protocol.session.up == len(data)


def test_what_came_in_is_sent_on_and_sent_anew_to_another_back_end() -> None:
    proxy = Accepting(up=2, send=2)
    client = proxy.accept()
    client.receive(BINARY + b"question")
    for _ in range(2):
        backend = proxy.connector().succeed()
        proxy.turn()
        assert backend.value() == BINARY + b"question"
        backend.reset()
        proxy.turn()


def test_a_client_that_has_reset_is_delivered_behind_its_header() -> None:
    proxy = Accepting(networks="", send=1)
    client = proxy.accept()
    client.receive(b"question")
    client.reset()
    backend = proxy.connector().succeed()
    run(proxy.reactor, 1)
    assert backend.value() == encode(1, ("192.0.2.1", 40000), ("192.0.2.2", 80)) + b"question"


def test_where_a_client_that_is_gone_was_connected_to_is_unknown() -> None:
    proxy = Accepting(send=2)
    client = proxy.accept()
    client.receive(LINE)
    link = client.protocol.session.link
    assert link.destination() == ("192.0.2.2", 80)
    client.reset()
    assert link.destination() is None


class Tls:
    """What OpenSSL tells of a connection."""

    def __init__(self, name: str | None, protocol: bytes, server: bytes | None) -> None:
        self._name = name
        self.get_alpn_proto_negotiated = lambda: protocol
        self.get_servername = lambda: server

    def get_protocol_version_name(self) -> str:
        return "TLSv1.3"

    def get_peer_certificate(self) -> Any:
        return None if self._name is None else self

    def get_subject(self) -> Any:
        return self

    @property
    def CN(self) -> str | None:
        return self._name or None


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        (Tls(None, b"", None), [(SSL, b"\1\0\0\0\1\x21\0\7TLSv1.3")]),
        (
            Tls("me", b"h2", b"example.org"),
            [(SSL, b"\7\0\0\0\0\x21\0\7TLSv1.3\x22\0\2me"), (ALPN, b"h2"), (AUTHORITY, b"example.org")],
        ),
        (Tls("", b"", None), [(SSL, b"\7\0\0\0\0\x21\0\7TLSv1.3")]),
    ],
)
def test_of_tls_that_ends_here_a_back_end_is_told(tls: Tls, expected: Any) -> None:
    proxy = Accepting(send=2)
    transport = TlsStream(proxy.reactor, None)
    transport.getHandle = lambda: tls  # type: ignore[attr-defined]
    assert tls_of(transport) == tuple(expected)
    assert tls_of(Stream(proxy.reactor, None)) == ()


def test_tls_that_ends_here_is_told_instead_of_that_of_another_proxy() -> None:
    proxy = Accepting(send=2)
    protocol = proxy.built()
    client = TlsStream(proxy.reactor, protocol)
    client.peerAddr, client.hostAddr = CLIENT, HERE
    client.getHandle = lambda: Tls(None, b"", None)  # type: ignore[attr-defined]
    protocol.makeConnection(client)
    others = [(SSL, b"\1\0\0\0\0"), (UNIQUE_ID, b"id"), (ALPN, b"h3")]
    client.receive(encode(2, SOURCE, DESTINATION, others))
    client.shake_hands()
    backend = proxy.connector().succeed()
    proxy.turn()
    tlvs = [(SSL, b"\1\0\0\0\1\x21\0\7TLSv1.3"), (UNIQUE_ID, b"id")]
    assert backend.value() == encode(2, SOURCE, DESTINATION, tlvs)
