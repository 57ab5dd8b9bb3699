"""UDP ports of every address: where a datagram arrived, and where the answer leaves from. Real sockets on loopback."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError

from rproxy.net import udp_port as udp
from rproxy.net.binding import ANY_IPV4, ANY_IPV6, Binding, bindings
from rproxy.net.udp_port import UdpPorts, listen_udp, send, udp_ports
from tests.fakes import Datagrams
from tests.net.test_udp_port import WAIT_S, Bench, Taker

GONE = "192.0.2.1"
"""No address of this host."""


class Refusing(socket.socket):
    """Knows nothing of sockets for both families."""

    def setsockopt(self, level: int, option: int, value: Any, *more: Any) -> None:
        if (level, option) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) and not value:
            raise OSError(errno.EINVAL, "Invalid argument")
        super().setsockopt(level, option, value, *more)


class NoIpv6(socket.socket):
    def __init__(self, family: int = socket.AF_INET, *more: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *more)


def test_no_host_is_one_socket_of_both_families() -> None:
    assert bindings("") == (Binding("::"),)
    assert Binding("::").is_dual


def test_no_host_is_two_sockets_where_none_is_of_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", Refusing)
    assert bindings("") == (Binding(ANY_IPV4), Binding(ANY_IPV6, ipv6_only=True))


def test_no_host_is_ipv4_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", NoIpv6)
    assert bindings("") == (Binding(ANY_IPV4),)


@pytest.mark.parametrize("host", ["10.1.1.10", ANY_IPV4, "::1", ANY_IPV6])
def test_a_host_that_is_named_is_that_host(host: str) -> None:
    assert bindings(host) == (Binding(host),)
    assert bindings(host, freebind=True) == (Binding(host, freebind=True),)


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param)
    bench.port.startListening()
    yield bench
    bench.close()


def ask(bench: Bench, at: str) -> socket.socket:
    """Somebody who has asked the port at one of its addresses."""
    asker = socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET, socket.SOCK_DGRAM)
    asker.settimeout(WAIT_S)
    asker.sendto(b"?", (at, bench.port.getHost().port))
    bench.reads()
    return asker


@pytest.mark.parametrize("at", ["127.0.0.1", "127.8.9.10", "::1"])
@pytest.mark.parametrize("bench", [ANY_IPV4, ANY_IPV6], indirect=True)
def test_an_answer_leaves_from_the_address_that_was_asked(bench: Bench, at: str) -> None:
    if bench.port.binding.host == ANY_IPV4 and ":" in at:
        return  # which that one does not hear
    with ask(bench, at) as asker:
        assert bench.protocol.asked_at == [at]
        assert bench.port.send(
            b"!", asker.getsockname()[:2] if ":" in at else ("127.0.0.1", asker.getsockname()[1]), at
        )
        assert asker.recvfrom(10)[:1] == (b"!",)
        bench.port.send(b"!", (at if ":" in at else "127.0.0.1", asker.getsockname()[1]), at)
        assert asker.recvfrom(10)[1][:2] == (at, bench.port.getHost().port)


@pytest.mark.parametrize("bench", [ANY_IPV4, ANY_IPV6], indirect=True)
def test_one_that_is_ours_no_more_is_left_out_and_that_is_told(bench: Bench) -> None:
    with ask(bench, "127.8.9.10") as asker:
        assert not bench.port.send(b"!", ("127.0.0.1", asker.getsockname()[1]), GONE)
        assert asker.recvfrom(10) == (b"!", ("127.0.0.1", bench.port.getHost().port))


@pytest.mark.parametrize("bench", [ANY_IPV6], indirect=True)
def test_an_ipv6_address_that_is_ours_no_more_is_left_out_too(bench: Bench) -> None:
    with ask(bench, "::1") as asker:
        assert not bench.port.send(b"!", ("::1", asker.getsockname()[1]), "2001:db8::1")
        assert asker.recvfrom(10)[0] == b"!"


@pytest.mark.parametrize("bench", [ANY_IPV4, ANY_IPV6], indirect=True)
def test_what_cannot_be_sent_in_any_case_is_an_error(bench: Bench) -> None:
    with pytest.raises(OSError, match="too long"):
        bench.port.send(bytes(70_000), ("127.0.0.1", 9), "127.0.0.1")


@pytest.mark.parametrize("bench", ["127.0.0.1"], indirect=True)
def test_a_port_of_one_address_is_not_told_what_it_knows(bench: Bench) -> None:
    with ask(bench, "127.0.0.1"):
        assert bench.protocol.asked_at == [""]


@pytest_twisted.inlineCallbacks  # type: ignore[untyped-decorator]
def test_two_sockets_are_one_port_of_one_protocol(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deferred[Any]]:
    from twisted.internet import reactor

    monkeypatch.setattr(udp, "bindings", lambda host, **options: (Binding(ANY_IPV4), Binding(ANY_IPV6, ipv6_only=True)))
    protocol = Taker()
    ports = listen_udp(reactor, 0, protocol, "")
    each: list[Any] = list(udp_ports(ports))
    four, six = (port.getHost() for port in each)
    assert (four.host, six.host, four.port) == (ANY_IPV4, ANY_IPV6, six.port)
    transport: Any = protocol.transport
    assert transport is ports
    for host in ("127.0.0.1", "::1"):
        protocol.first = Deferred()
        protocol.taken.clear()
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(WAIT_S)
            asker.bind((host, 0))
            asker.sendto(host.encode(), (host, four.port))
            protocol.first.addTimeout(WAIT_S, reactor)
            yield protocol.first
            assert protocol.asked_at[-1] == host
            assert send(ports, b"!", asker.getsockname()[:2], host)
            assert asker.recvfrom(10)[1][:2] == (host, four.port)
    yield maybeDeferred(ports.stopListening)
    assert protocol.transport is None
    assert [port.fileno() for port in each] == [-1, -1]


def test_two_sockets_of_which_one_is_taken_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    monkeypatch.setattr(udp, "bindings", lambda host, **options: (Binding(ANY_IPV4), Binding(ANY_IPV6, ipv6_only=True)))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:  # of the other family, too
            free.bind(("0.0.0.0", 0))
            port = free.getsockname()[1]
            taken.bind(("::", port))
        with pytest.raises(CannotListenError):
            listen_udp(reactor, port, Taker(), "")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("0.0.0.0", port))


def test_a_family_that_no_socket_speaks_is_an_error() -> None:
    ports = UdpPorts([])
    with pytest.raises(OSError, match="does not speak"):
        ports.write(b"!", ("::1", 9))


def test_another_transport_gets_what_it_knows() -> None:
    transport = Datagrams()
    transport.on_write = lambda pdu, address: None
    assert send(transport, bytes.fromhex("20" + "00" * 3 + "00000001" + "00" * 8 + "00000001" + "00" * 4), ("::1", 1))
