"""Addresses as the network layer hands them over, and as the table and people write them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from rproxy.pool.backend import MAPPED, Address, unmapped


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


def local_address(remote: Address) -> str:
    """The address of ours that datagrams to `remote` leave from now. Raises `OSError` where there is no route."""
    family = socket.AF_INET6 if ":" in remote[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(remote)  # sends nothing
        return plain(sock.getsockname())[0]


def is_loopback(host: str) -> bool:
    ip = ip_address(host)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback


def speaks_ipv6(transport: object) -> bool:
    """Whether a UDP transport's socket is an IPv6 one."""
    return getattr(transport, "addressFamily", socket.AF_INET) == socket.AF_INET6
