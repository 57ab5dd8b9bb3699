"""Sockets connected from addresses of this host, and from the client's own. The latter needs root."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rproxy.net.addresses import Address
from rproxy.net.outgoing import AddressSource, ClientSource, UnusableSource
from rproxy.sessions.outbound import Source
from tests.conftest import need

MISSING = "192.0.2.77"
"""Documentation's: no host has it."""


class Bench:
    """A server, and sockets that are to be connected to it."""

    def __init__(self, stack: ExitStack, host: str = "127.0.0.1") -> None:
        self._stack = stack
        self.reports: list[tuple[str, str]] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.server = stack.enter_context(socket.create_server((host, 0), family=family, backlog=64))
        self.server.settimeout(5)
        self.address: Address = self.server.getsockname()[:2]

    def report(self, source: str, line: str) -> None:
        self.reports.append((source, line))

    def socket(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(self.server.family))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        return sock

    def connect(self, source: Source, client: Address | None = None) -> int:
        return source.connect(self.socket(), self.address, client)

    def seen(self, source: Source, client: Address | None = None) -> Address:
        """The address that the server sees of a connection from `source`."""
        sock = self.socket()
        assert source.connect(sock, self.address, client) in (0, errno.EINPROGRESS)
        accepted = self._stack.enter_context(self.server.accept()[0])
        assert select.select([], [sock], [], 5)[1]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
        assert not sock.get_inheritable()
        assert not sock.getblocking()
        address: Address = accepted.getpeername()[:2]
        return address


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def bench(stack: ExitStack) -> Bench:
    return Bench(stack)


def sources(bench: Bench, *hosts: str) -> AddressSource:
    return AddressSource(hosts, bench.report)


def test_addresses_are_taken_in_turn(bench: Bench) -> None:
    source = sources(bench, "127.0.0.5", "127.0.0.6", "127.0.0.7")
    source.check()
    hosts = [bench.seen(source)[0] for _ in range(6)]
    assert hosts[:3] == hosts[3:]
    assert sorted(hosts[:3]) == ["127.0.0.5", "127.0.0.6", "127.0.0.7"]


def test_only_those_of_the_back_ends_family_are_taken(bench: Bench, stack: ExitStack) -> None:
    source = sources(bench, "127.0.0.5", "::1")
    assert {bench.seen(source)[0] for _ in range(3)} == {"127.0.0.5"}
    assert Bench(stack, "::1").seen(source)[0] == "::1"
    assert bench.seen(sources(bench, "::1"))[0] == "127.0.0.1"


def test_a_port_serves_every_back_end_once(bench: Bench) -> None:
    """The kernel takes no port before it knows where the connection leads."""
    sock = bench.socket()
    sources(bench, "127.0.0.5").connect(sock, bench.address, None)
    assert sock.getsockopt(socket.IPPROTO_IP, 24) == 1


@pytest.mark.parametrize("hosts", [(MISSING, "127.0.0.5"), ("127.0.0.5", MISSING)])
def test_one_that_this_host_lacks_is_skipped(bench: Bench, hosts: tuple[str, ...]) -> None:
    source = sources(bench, *hosts)
    assert {bench.seen(source)[0] for _ in range(4)} == {"127.0.0.5"}
    assert set(bench.reports) == {
        (MISSING, f"cannot connect from {MISSING}: this host does not have this address"),
    }


def test_without_any_that_can_be_used_the_error_is_this_hosts(bench: Bench) -> None:
    assert bench.connect(sources(bench, MISSING)) == errno.EADDRNOTAVAIL
    bench.address = ("192.0.2.1", 9)
    assert bench.connect(sources(bench, "127.0.0.5")) == errno.EADDRNOTAVAIL
    assert bench.reports == [
        (MISSING, f"cannot connect from {MISSING}: this host does not have this address"),
        ("127.0.0.5", "cannot connect from 127.0.0.5 to 192.0.2.1:9: Invalid argument"),
    ]


def test_a_refused_connect_is_the_back_ends_own(bench: Bench) -> None:
    bench.server.close()
    sock = bench.socket()
    assert sources(bench, "127.0.0.5").connect(sock, bench.address, None) in (errno.EINPROGRESS, errno.ECONNREFUSED)
    assert select.select([], [sock], [], 5)[1]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.ECONNREFUSED)


@pytest.mark.parametrize(
    ("host", "reason"), [(MISSING, "this host does not have this address"), ("fe80::1%no-such-link", "")]
)
def test_one_that_this_host_lacks_is_an_error_at_the_start(bench: Bench, host: str, reason: str) -> None:
    with pytest.raises(UnusableSource, match=f"{host}: {reason}"):
        sources(bench, "127.0.0.5", host).check()
    AddressSource([host], bench.report, freebind=True).check()


needs_root = pytest.mark.usefixtures("_root")


@pytest.fixture
def _root() -> None:
    need(root=True)


@needs_root
def test_a_client_is_seen_at_its_own_address_and_port(bench: Bench) -> None:
    source = ClientSource(bench.report)
    source.check()
    assert bench.seen(source, ("127.0.0.9", 45_001)) == ("127.0.0.9", 45_001)


@needs_root
def test_a_port_that_leads_there_already_is_another_one(bench: Bench) -> None:
    source = ClientSource(bench.report)
    assert bench.seen(source, ("127.0.0.9", 45_002)) == ("127.0.0.9", 45_002)
    host, port = bench.seen(source, ("127.0.0.9", 45_002))
    assert host == "127.0.0.9"
    assert port != 45_002


@needs_root
def test_one_port_of_a_client_leads_to_several_back_ends(bench: Bench, stack: ExitStack) -> None:
    source, other = ClientSource(bench.report), Bench(stack)
    assert [each.seen(source, ("127.0.0.9", 45_003))[1] for each in (bench, other)] == [45_003] * 2


@needs_root
def test_a_port_that_somebody_listens_on_is_another_one(bench: Bench, stack: ExitStack) -> None:
    client: Address = stack.enter_context(socket.create_server(("127.0.0.9", 0))).getsockname()
    host, port = bench.seen(ClientSource(bench.report), client)
    assert host == client[0]
    assert port != client[1]


@needs_root
@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (None, "it has none"),
        (("2001:db8::1", 45_004), "it is of another family"),
        (("127.0.0.1", 45_004), "it is the back-end's own"),
    ],
)
def test_others_are_connected_from_this_hosts_address(bench: Bench, client: Address | None, reason: str) -> None:
    source = ClientSource(bench.report)
    assert bench.seen(source, client)[0] == "127.0.0.1"
    ((_, line),) = bench.reports
    assert line.startswith(f"cannot connect to 127.0.0.1:{bench.address[1]} from the address of ")
    assert line.endswith(reason)


@needs_root
def test_a_client_of_the_loopback_interface_cannot_be_passed_on_to_other_hosts(bench: Bench) -> None:
    bench.address = ("192.0.2.1", 9)
    bench.connect(ClientSource(bench.report), ("127.0.0.9", 45_007))
    ((_, line),) = bench.reports
    assert line == (
        "cannot connect to 192.0.2.1:9 from the address of 127.0.0.9, but only from this host's: Invalid argument"
    )


@needs_root
def test_ipv6_clients_are_seen_at_their_own_address(stack: ExitStack) -> None:
    bench = Bench(stack, "::1")
    source = ClientSource(bench.report)
    sock = bench.socket()
    assert source.connect(sock, bench.address, ("2001:db8::9", 45_005)) in (0, errno.EINPROGRESS)
    assert sock.getsockname()[:2] == ("2001:db8::9", 45_005)


@needs_root
@pytest.mark.parametrize("host", ["fe80::1", "ff02::1", "ff0e::1"])
def test_an_address_from_which_nothing_can_come_is_replaced_by_this_hosts(stack: ExitStack, host: str) -> None:
    """As PROXY headers may tell: a link-local one without its interface, or a group's."""
    bench = Bench(stack, "::1")
    assert bench.seen(ClientSource(bench.report), (host, 45_008))[0] == "::1"
    ((_, line),) = bench.reports
    assert line.endswith(f"from the address of {host}, but only from this host's: Invalid argument")


def test_without_the_capability_nothing_starts_and_the_error_is_this_hosts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("rproxy.net.outgoing._set_transparent", refuse)
    source = ClientSource(bench.report)
    with pytest.raises(UnusableSource, match="client: needs the capability CAP_NET_ADMIN"):
        source.check()
    assert bench.connect(source, ("127.0.0.9", 45_006)) == errno.EADDRNOTAVAIL
    assert bench.reports == [("client", "cannot connect from the address of 127.0.0.9: Operation not permitted")]
