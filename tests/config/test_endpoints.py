"""Where a proxy listens for clients, and with which sockets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.protocol import Factory

from rproxy.config import endpoints
from rproxy.config.endpoints import listen_endpoints
from rproxy.config.validators import ConfigError
from rproxy.net.binding import Binding
from rproxy.net.tcp_port import BACKLOG, BindingReactor, TcpEndpoint, TcpPort
from tests.fakes import Reactor

DUAL, SIX, FOUR = Binding("::"), Binding("::", ipv6_only=True), Binding("0.0.0.0")


def opened(*texts: str, freebind: bool = False) -> list[tuple[int, Binding]]:
    endpoints = listen_endpoints(Reactor(), texts, freebind=freebind)
    return [(endpoint.port, endpoint.binding) for _, endpoint in endpoints if isinstance(endpoint, TcpEndpoint)]


@pytest.mark.parametrize(
    ("texts", "sockets"),
    [
        (["80"], [(80, DUAL)]),
        (["*:80"], [(80, DUAL)]),
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
    with pytest.raises(ConfigError, match="this port is given twice"):
        opened(*texts)


def test_two_sockets_are_two_listeners_of_one_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "bindings", lambda host, **options: (FOUR, SIX))
    assert opened("80") == [(80, FOUR), (80, SIX)]


def test_free_binding_is_for_what_is_named() -> None:
    assert opened("10.1.1.1:80", "81", freebind=True) == [(80, Binding("10.1.1.1", freebind=True)), (81, DUAL)]


@pytest.mark.parametrize(
    "text", ["tcp:0:interface=192.0.2.1", "ssl:0:interface=192.0.2.1", "tcp6:0:interface=2001\\:db8\\:\\:1"]
)
def test_free_binding_is_for_twisteds_strings_too(text: str) -> None:
    from twisted.internet import reactor, ssl

    if text.startswith("ssl"):
        port: Any = BindingReactor(reactor, freebind=True, reuse_port=False).listenSSL(
            0, Factory(), ssl.CertificateOptions(), interface="192.0.2.1"
        )
    else:
        ((_, endpoint),) = listen_endpoints(reactor, [text], freebind=True)
        ports: list[Any] = []
        endpoint.listen(Factory()).addCallback(ports.append)
        (port,) = ports
    assert isinstance(port, TcpPort)
    assert port.getHost().host in ("192.0.2.1", "2001:db8::1")
    port.stopListening()


@pytest.mark.parametrize(
    ("text", "kind", "host", "port"),
    [
        ("8080", TcpEndpoint, "::", 8080),
        ("0", TcpEndpoint, "::", 0),
        ("10.1.1.10:8080", TcpEndpoint, "10.1.1.10", 8080),
        ("[::1]:8080", TcpEndpoint, "::1", 8080),
        ("tcp:8080", TCP4ServerEndpoint, "", 8080),
        ("tcp:8080:interface=127.0.0.1", TCP4ServerEndpoint, "127.0.0.1", 8080),
        ("tcp6:8080", TCP6ServerEndpoint, "::", 8080),
    ],
)
def test_clients_are_accepted_on_a_port_a_host_and_port_or_an_endpoint_string(
    text: str, kind: type[object], host: str, port: int
) -> None:
    reactor = Reactor()
    ((_, endpoint),) = listen_endpoints(reactor, [text])
    assert isinstance(endpoint, kind)
    endpoint.listen(None)  # type: ignore[arg-type]
    ((listened, _, _, interface),) = reactor.tcpServers
    assert (interface, listened) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("8080", "10.1.1.10:8080", "[::1]:8080", "tcp:8080", "tcp6:8080", "tcp:8080:interface=127.0.0.1"),
        *("haproxy:tcp:8080", "tcp:8080:backlog=7", "tcp:backlog=7:port=8080", "haproxy:tcp:8080:backlog=7"),
    ],
)
def test_the_queue_of_clients_not_yet_accepted_is_long(text: str) -> None:
    reactor = Reactor()
    ((_, endpoint),) = listen_endpoints(reactor, [text])
    endpoint.listen(None)  # type: ignore[arg-type]
    ((_, _, backlog, _),) = reactor.tcpServers
    assert backlog == (BACKLOG if "backlog" not in text else 7)


def test_a_unix_endpoint_listens_on_its_path(tmp_path: Path) -> None:
    reactor = Reactor()
    ((_, endpoint),) = listen_endpoints(reactor, [f"unix:{tmp_path}/socket"])
    endpoint.listen(None)  # type: ignore[arg-type]
    assert [server[0] for server in reactor.unixServers] == [f"{tmp_path}/socket"]


def test_an_inherited_socket_that_is_not_there_is_named_so() -> None:
    text = "systemd:domain=INET:index=7"
    with pytest.raises(ConfigError) as caught:
        listen_endpoints(Reactor(), [text])
    assert str(caught.value).startswith(f"--listen {text}: so many sockets were not inherited")
