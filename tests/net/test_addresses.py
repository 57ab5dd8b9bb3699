"""Addresses as sockets of either family show and want them."""

from __future__ import annotations

import socket

import pytest

from rproxy.net.addresses import is_loopback, plain, reachable, written, written_unix
from rproxy.net.own_addresses import local_address
from rproxy.net.udp_port import speaks_ipv6
from tests.fakes import Datagrams


@pytest.mark.parametrize(
    ("shown", "address"),
    [
        (("10.0.0.1", 5555), ("10.0.0.1", 5555)),
        (("::ffff:10.0.0.1", 5555), ("10.0.0.1", 5555)),
        (("::ffff:10.0.0.1", 5555, 0, 0), ("10.0.0.1", 5555)),
        (("2001:db8::5", 1), ("2001:db8::5", 1)),
        (("fe80::1%eth0", 1), ("fe80::1%eth0", 1)),
        (("::1", 65535), ("::1", 65535)),
    ],
)
def test_a_source_is_a_host_and_a_port_and_mapped_ipv4_is_ipv4(
    shown: tuple[object, ...], address: tuple[str, int]
) -> None:
    assert plain(shown) == address


@pytest.mark.parametrize(
    ("host", "over_ipv6", "told"),
    [
        ("10.0.0.1", False, "10.0.0.1"),
        ("10.0.0.1", True, "::ffff:10.0.0.1"),
        ("2001:db8::5", True, "2001:db8::5"),
        ("2001:db8::5", False, "2001:db8::5"),
    ],
)
def test_an_ipv6_socket_is_told_ipv4_addresses_as_mapped(host: str, over_ipv6: bool, told: str) -> None:
    assert reachable((host, 5555), over_ipv6=over_ipv6) == (told, 5555)


@pytest.mark.parametrize("host", ["10.0.0.1", "2001:db8::5", "127.0.0.1"])
def test_what_an_ipv6_socket_is_told_comes_back_as_it_was(host: str) -> None:
    assert plain(reachable((host, 5555), over_ipv6=True)) == (host, 5555)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("2001:db8::1", False),
        ("::1%1", True),
        ("localhost", False),
        ("", False),
    ],
)
def test_loopback_is_known_in_both_families(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("transport", "six"),
    [(Datagrams(socket.AF_INET), False), (Datagrams(socket.AF_INET6), True), (object(), False)],
    ids=["IPv4", "IPv6", "not said"],
)
def test_a_transport_speaks_the_family_of_its_socket(transport: object, six: bool) -> None:
    assert speaks_ipv6(transport) is six


@pytest.mark.parametrize(
    ("address", "text"), [(("10.0.0.1", 80), "10.0.0.1:80"), (("::1", 80), "[::1]:80"), (("web", 80), "web:80")]
)
def test_an_address_is_written_with_an_ipv6_host_in_brackets(address: tuple[str, int], text: str) -> None:
    assert written(address) == text


@pytest.mark.parametrize(
    ("remote", "ours"),
    [("127.0.0.1", "127.0.0.1"), ("127.8.9.10", "127.0.0.1"), ("::1", "::1"), ("::ffff:127.0.0.1", "127.0.0.1")],
)
def test_our_address_is_that_of_the_route_and_nothing_is_sent_to_learn_it(remote: str, ours: str) -> None:
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as there:
        there.bind((remote, 0))
        there.setblocking(False)
        assert local_address((remote, there.getsockname()[1])) == ours
        with pytest.raises(BlockingIOError):
            there.recv(1)


def test_where_nothing_can_be_sent_to_there_is_no_address_of_ours() -> None:
    """Datagrams to everybody need an option that this socket has not."""
    with pytest.raises(OSError, match=r"denied|unreachable"):
        local_address(("255.255.255.255", 5555))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (None, "UNIX"),
        ("", "UNIX"),
        (b"", "UNIX"),
        ("/run/client", "/run/client"),
        (b"/run/client", "/run/client"),
        (b"\0abstract", "@abstract"),
        (b"/run/\xff", "/run/%FF"),
        ("/run/\N{LATIN SMALL LETTER E WITH ACUTE}", "/run/%C3%A9"),
        (b'/run/a "b"\\\n%', "/run/a%20%22b%22%5C%0A%25"),
        (b"\0a\0b", "@a%00b"),
    ],
)
def test_a_unix_sockets_name_is_written_as_a_path_or_with_an_at_sign(name: str | bytes | None, text: str) -> None:
    assert written_unix(name) == text
