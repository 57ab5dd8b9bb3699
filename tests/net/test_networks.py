"""Hosts looked up in sets of networks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.net.networks import Networks, packed


def of(*texts: str) -> Networks:
    return Networks([ip_network(text) for text in texts])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.1.2.3", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", True),
        ("::10.1.2.3", False),
        ("not an address", False),
        ("", False),
    ],
)
def test_a_host_is_looked_up_in_networks_of_its_family(host: str, expected: bool) -> None:
    networks = of("10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "fe80::/10")
    assert (packed(host) in networks) is expected


def test_everything_of_one_family_is_nothing_of_the_other() -> None:
    assert packed("192.0.2.1") in of("0.0.0.0/0")
    assert packed("::1") not in of("0.0.0.0/0")
    assert packed("::1") in of("::/0")
    assert packed("192.0.2.1") not in of("::/0")


def test_no_networks_are_false() -> None:
    assert not of()
    assert of("10.0.0.0/8")


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(
    networks=st.lists(st.tuples(addresses, st.integers(0, 128)), max_size=20),
    host=addresses,
    near=st.booleans(),
)
def test_it_finds_what_the_standard_library_finds(
    networks: list[tuple[IPv4Address | IPv6Address, int]], host: IPv4Address | IPv6Address, near: bool
) -> None:
    read = [ip_network((each, length % (each.max_prefixlen + 1)), strict=False) for each, length in networks]
    if near and read:
        host = ip_address(read[0].broadcast_address)
    assert (packed(str(host)) in Networks(read)) is any(host in network for network in read)
