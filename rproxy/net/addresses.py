"""IP addresses as text: as the network layer hands them over, as the table keeps them, and as people write them."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final

Address = tuple[str, int]
"""An IP address in text and a port."""

MAPPED: Final = "::ffff:"


def written(address: Address) -> str:
    """host:port, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unmapped(host: str) -> str:
    """An IPv4-mapped IPv6 address, as a socket of both families shows IPv4's, as plain IPv4."""
    return host.removeprefix(MAPPED) if "." in host else host


def plain(address: Sequence[object]) -> Address:
    """(host, port) of a datagram's source; an IPv4-mapped host, as an IPv6 socket sees it, becomes plain IPv4.

    One that is good on a single link keeps that link's number: fe80::1%2.
    """
    host, port = str(address[0]), address[1]
    assert isinstance(port, int)
    if len(address) > 3 and address[3]:
        return f"{host.partition('%')[0]}%{address[3]}", port
    return unmapped(host), port


def reachable(address: Address, *, over_ipv6: bool) -> Address:
    """`address` as a socket of the given family must be told it."""
    host, port = address
    if over_ipv6 and ":" not in host:
        return MAPPED + host, port
    return host, port


def is_loopback(host: str) -> bool:
    """Whether nobody elsewhere can send from this IP address. Raises `ValueError` for what is none."""
    ip = ip_address(host)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback
