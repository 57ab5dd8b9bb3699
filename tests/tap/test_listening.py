"""Where a proxy listens for clients, and with which sockets."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.python import usage

from rproxy.net import binding
from rproxy.net.binding import Binding
from rproxy.tap import listening
from rproxy.tap.listening import BACKLOG, FreeBinding, TcpEndpoint, TcpPort, listen_endpoints, listen_tcp
from tests.fakes import Reactor
from tests.tap.commands import complaint, settings

DUAL, SIX, FOUR = Binding("::"), Binding("::", ipv6_only=True), Binding("0.0.0.0")


def opened(*texts: str, freebind: bool = False) -> list[tuple[int, Binding]]:
    endpoints = listen_endpoints(Reactor(), texts, freebind=freebind)
    return [(endpoint.port, endpoint.binding) for _, endpoint in endpoints if isinstance(endpoint, TcpEndpoint)]


@pytest.mark.parametrize(
    ("texts", "sockets"),
    [
        (["80"], [(80, DUAL)]),
        (["[::]:80"], [(80, DUAL)]),
        (["0.0.0.0:80"], [(80, FOUR)]),
        (["80", "[::]:80"], [(80, DUAL)]),
        (["[::]:80", "80"], [(80, DUAL)]),
        (["80", "0.0.0.0:80"], [(80, DUAL)]),
        (["[::]:80", "0.0.0.0:80"], [(80, SIX), (80, FOUR)]),
        (["0.0.0.0:80", "[::]:80"], [(80, FOUR), (80, SIX)]),
        (["0.0.0.0:80", "[::]:80", "80"], [(80, DUAL)]),
        (["80", "[::]:81"], [(80, DUAL), (81, DUAL)]),
        (["0", "0"], [(0, DUAL), (0, DUAL)]),
        (["0", "[::]:0", "0.0.0.0:0"], [(0, DUAL), (0, DUAL), (0, FOUR)]),
        (["80", "127.0.0.1:80", "[::1]:80", "127.0.0.1:81"], [(80, DUAL), (81, Binding("127.0.0.1"))]),
        (["[::1]:80", "127.0.0.1:80", "[::]:80"], [(80, DUAL)]),
        (["127.0.0.1:80", "[::1]:80", "0.0.0.0:80"], [(80, Binding("::1")), (80, FOUR)]),
        (["127.0.0.1:80", "0.0.0.0:80", "[::]:80"], [(80, FOUR), (80, SIX)]),
        (["127.0.0.1:80", "[::1]:80"], [(80, Binding("127.0.0.1")), (80, Binding("::1"))]),
    ],
)
def test_no_client_finds_a_port_twice(texts: Sequence[str], sockets: list[tuple[int, Binding]]) -> None:
    assert opened(*texts) == sockets


@pytest.mark.parametrize(
    "texts",
    [
        ("80", "80"),
        ("80", "443", "80"),
        ("[::]:80", "[::]:80"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "[::ffff:127.0.0.1]:80"),
        ("80", "080"),
    ],
)
def test_a_port_that_is_given_twice_is_one_line(texts: Sequence[str]) -> None:
    with pytest.raises(usage.UsageError, match="this port is given twice"):
        opened(*texts)


def test_two_sockets_are_two_listeners_of_one_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "bindings", lambda host, freebind: (FOUR, SIX))
    assert opened("80") == [(80, FOUR), (80, SIX)]


def test_free_binding_is_for_what_is_named() -> None:
    assert opened("10.1.1.1:80", "81", freebind=True) == [(80, Binding("10.1.1.1", freebind=True)), (81, DUAL)]


@pytest.mark.parametrize(
    "text", ["tcp:0:interface=192.0.2.1", "ssl:0:interface=192.0.2.1", "tcp6:0:interface=2001\\:db8\\:\\:1"]
)
def test_free_binding_is_for_twisteds_strings_too(text: str) -> None:
    from twisted.internet import reactor, ssl

    if text.startswith("ssl"):
        port: Any = FreeBinding(reactor).listenSSL(0, Factory(), ssl.CertificateOptions(), interface="192.0.2.1")
    else:
        ((_, endpoint),) = listen_endpoints(reactor, [text], freebind=True)
        ports: list[Any] = []
        endpoint.listen(Factory()).addCallback(ports.append)
        (port,) = ports
    assert isinstance(port, TcpPort)
    assert port.getHost().host in ("192.0.2.1", "2001:db8::1")
    port.stopListening()


def test_a_dual_socket_is_one_whatever_the_system_says_and_takes_both() -> None:
    from twisted.internet import reactor

    port: Any = listen_tcp(reactor, 0, Factory(), DUAL)
    assert port.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    six_only: Any = listen_tcp(reactor, 0, Factory(), SIX)
    assert six_only.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    for each in (port, six_only):
        each.stopListening()
    assert BACKLOG == 4096


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:10.0.0.0/104", IPv4Network("10.0.0.0/8")),
        ("::ffff:10.0.0.5", IPv4Network("10.0.0.5/32")),
        ("::ffff:0:0/96", IPv4Network("0.0.0.0/0")),
        ("::/0", IPv6Network("::/0")),
        ("::ffff:0:0/95", None),
        ("::fffe:0:0/95", IPv6Network("::fffe:0:0/95")),
        ("2001:db8::/32", IPv6Network("2001:db8::/32")),
    ],
)
def test_a_mapped_network_is_an_ipv4_one(text: str, network: Any) -> None:
    if network is None:
        assert "has host bits set" in complaint("--allow", text)
    else:
        assert settings("--allow", text).allow == (network,)


@pytest.mark.parametrize("text", ["10.0.0.5/24", "::ffff:10.0.0.5/104"])
def test_host_bits_are_told(text: str) -> None:
    assert f"--allow {text}: " in complaint("--allow", text)
    assert "has host bits set" in complaint("--allow", text)


def test_free_binding_is_linuxs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings("--freebind").freebind is binding.CAN_FREEBIND is True
    monkeypatch.setattr("rproxy.tap.settings.CAN_FREEBIND", False)
    assert complaint("--freebind").startswith("twistd rproxy: --freebind: needs Linux")
