"""Which listener each passed socket stands for, and what is said where that is not clear."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import getPlugins

from rproxy.config.activation import activated
from rproxy.config.endpoints import listen_endpoints
from rproxy.config.model import ProxyConfig, ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.net.inherited import InheritedSocket
from tests.fakes import Reactor

WEB = ServiceConfig(name="web", listen=("80", "443"), prefix="service[0].")
DB = ServiceConfig(name="db", listen=("127.0.0.1:5432",), prefix="service[1].")
ONE = ServiceConfig()


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def listening_on_unix() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")
    sock.listen()
    return sock


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def datagrams() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


class Manager:
    """Opens sockets, and passes them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.descriptors: list[int] = []

    def passed(self, *names: str, make: Callable[[], socket.socket] = listening) -> list[InheritedSocket]:
        self.descriptors = [self._stack.enter_context(make()).fileno() for _ in names]
        return [InheritedSocket(number, name) for number, name in zip(self.descriptors, names, strict=True)]


@pytest.fixture
def manager() -> Iterator[Manager]:
    with ExitStack() as stack:
        yield Manager(stack)


def assigned(services: Sequence[ServiceConfig], sockets: Sequence[InheritedSocket]) -> list[dict[str, int]]:
    config = activated(ProxyConfig(services=tuple(services)), sockets)
    return [dict(service.inherited) for service in config.services]


def why_not(services: Sequence[ServiceConfig], sockets: Sequence[InheritedSocket]) -> str:
    with pytest.raises(ConfigError) as caught:
        assigned(services, sockets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["", "rproxy.socket", "unknown"])
def test_without_names_of_services_they_are_for_all_listeners_in_order(manager: Manager, name: str) -> None:
    sockets = manager.passed(name, name, name)
    first, second, third = manager.descriptors
    assert assigned([WEB, DB], sockets) == [{"80": first, "443": second}, {"127.0.0.1:5432": third}]


def test_by_name_they_are_a_services_and_others_open_their_own(manager: Manager) -> None:
    sockets = manager.passed("db")
    assert assigned([WEB, DB], sockets) == [{}, {"127.0.0.1:5432": manager.descriptors[0]}]
    sockets = manager.passed("web", "db", "web")
    first, second, third = manager.descriptors
    assert assigned([WEB, DB], sockets) == [{"80": first, "443": third}, {"127.0.0.1:5432": second}]


def test_where_there_is_one_service_names_need_not_be_its_own(manager: Manager) -> None:
    sockets = manager.passed("http", "https")
    assert assigned([WEB], sockets) == [dict(zip(WEB.listen, manager.descriptors, strict=True))]
    sockets = manager.passed("default")
    assert assigned([ONE], sockets) == [{"80": manager.descriptors[0]}]


def test_nothing_changes_without_sockets_or_where_listeners_name_theirs(manager: Manager) -> None:
    config = ProxyConfig(services=(WEB, DB))
    assert activated(config, []) is config
    for text in ("systemd:domain=INET:index=0", "haproxy:systemd:domain=INET:name=web"):
        config = ProxyConfig(services=(ServiceConfig(listen=("80", text)),))
        assert activated(config, manager.passed("web", "x", "y")) is config


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["", ""], "LISTEN_FDS: 2 socket(s) passed, and there are 3 listener(s): 80, 443, 127.0.0.1:5432"),
        ([""] * 4, "LISTEN_FDS: 4 socket(s) passed, and there are 3 listener(s): 80, 443, 127.0.0.1:5432"),
        (["web"], "LISTEN_FDNAMES: 1 socket(s) called web, and the service has 2 listener(s): 80, 443"),
        (["db", "db"], "LISTEN_FDNAMES: 2 socket(s) called db, and the service has 1 listener(s): 127.0.0.1:5432"),
        (["db", "bd"], "LISTEN_FDNAMES: a socket is called 'bd', and the services are web, db"),
        (["a.socket", "b.socket", "b.socket"], "LISTEN_FDNAMES: a socket is called 'a.socket', and the services are"),
        (["db", ""], "LISTEN_FDNAMES: a socket is called '', and the services are web, db"),
    ],
)
def test_a_wrong_number_or_name_is_one_line(manager: Manager, names: list[str], message: str) -> None:
    assert why_not([WEB, DB], manager.passed(*names)).startswith(message)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (datagrams, "the inherited socket is of the kind SOCK_DGRAM, and SOCK_STREAM is needed"),
        (bound, "the inherited socket does not listen"),
        (listening_on_unix, "the inherited socket is AF_UNIX"),
    ],
)
def test_a_wrong_kind_is_one_line(manager: Manager, make: Callable[[], socket.socket], why: str) -> None:
    sockets = manager.passed("default", make=make)
    assert why_not([ONE], sockets) == f"LISTEN_FDS {manager.descriptors[0]} (default): for the listener 80: {why}"


def test_a_descriptor_that_is_not_open_is_one_line() -> None:
    assert why_not([ONE], [InheritedSocket(9999, "")]) == "LISTEN_FDS 9999: for the listener 80: Bad file descriptor"


def test_a_unix_socket_is_for_a_unix_listener(manager: Manager) -> None:
    service = ServiceConfig(listen=("unix:/run/rproxy.sock",))
    assert assigned([service], manager.passed("", make=listening_on_unix)) == [
        {"unix:/run/rproxy.sock": manager.descriptors[0]}
    ]
    assert why_not([service], manager.passed("")).endswith("the inherited socket is AF_INET")


WITH_TLS = {"tls": "tls:/certificates:443"}
"""A type of endpoint that only newer versions of Twisted have."""


@pytest.mark.parametrize(
    "text",
    [
        "ssl:443:privateKey=k",
        "haproxy:tcp:80",
        *(WITH_TLS[each.prefix] for each in getPlugins(IStreamServerEndpointStringParser) if each.prefix in WITH_TLS),
    ],
)
def test_no_socket_stands_for_a_listener_with_a_layer(manager: Manager, text: str) -> None:
    service = ServiceConfig(listen=(text,))
    assert why_not([service], manager.passed("")) == (
        f"--listen {text}: no socket can be passed for this kind of endpoint"
    )


def test_the_socket_is_served_in_the_listeners_place(manager: Manager) -> None:
    sockets = manager.passed("", "")
    config = activated(ProxyConfig(services=(WEB,)), sockets)
    endpoints: list[Any] = listen_endpoints(Reactor(), WEB.listen, inherited=config.services[0].inherited)
    assert [(text, endpoint.fileno) for text, endpoint in endpoints] == list(
        zip(WEB.listen, manager.descriptors, strict=True)
    )
