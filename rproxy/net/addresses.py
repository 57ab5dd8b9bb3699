"""IP addresses as text: conversions between sockets, the pool and messages. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = tuple[str, int]
"""An IP address in text, and a port."""
Network = IPv4Network | IPv6Network

MAPPED: Final = "::ffff:"
"""Prefix of an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2)."""
_MAPPED_NETWORK: Final = IPv6Network(MAPPED + "0:0/96")
_UNSAFE: Final = re.compile(rb"[^!-~]|[\"%\\\\]")
_HOSTS_MAX: Final = 1024
"""Size of the cache of `is_loopback`, in hosts."""


def written(address: Address) -> str:
    """host:port, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def written_unix(name: str | bytes | None) -> str:
    """The path of a Unix socket's address, @name in Linux' abstract namespace, ``UNIX`` if it is unnamed.

    Clients choose their names, so quotes, backslashes and what is no visible ASCII are %XX: logs need not escape them.
    """
    raw = name.encode(errors="surrogateescape") if isinstance(name, str) else name or b""
    text = _UNSAFE.sub(lambda match: b"%%%02X" % ord(match[0]), raw.removeprefix(b"\0")).decode("ascii")
    return f"@{text}" if raw.startswith(b"\0") else text or "UNIX"


def is_ip(text: str) -> bool:
    """Whether this is an IP address of either family, and no name."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def within(host: str, networks: Collection[Network]) -> bool:
    """Whether the IP address is of one of the networks."""
    ip = ip_address(host)
    return any(ip in network for network in networks)


def unmapped(host: str) -> str:
    """`host`, or plain IPv4 for an IPv4-mapped address, which is how a socket of both families shows IPv4 peers."""
    return host.removeprefix(MAPPED) if "." in host else host


def canonical_ip(text: str) -> str:
    """An IP address as the kernel writes it, plain IPv4 if it is IPv4-mapped. Raises `ValueError`."""
    ip = ip_address(text)
    return str((ip.ipv4_mapped if isinstance(ip, IPv6Address) else None) or ip)


def canonical_network(text: str, *, strict: bool = True) -> Network:
    """A network in CIDR notation, or one address; one of IPv4-mapped addresses as IPv4. Raises `ValueError`.

    Unless `strict`, host bits may be set.
    """
    network = ip_network(text, strict=strict)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED_NETWORK):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None
        return IPv4Network((mapped, network.prefixlen - _MAPPED_NETWORK.prefixlen))
    return network


def plain(address: Sequence[object]) -> Address:
    """(host, port) of a socket address; an IPv4-mapped host, as an IPv6 socket shows it, becomes plain IPv4.

    A link-local address keeps its interface's index: fe80::1%2.
    """
    host, port = str(address[0]), address[1]
    assert isinstance(port, int)
    if len(address) > 3 and address[3]:
        return f"{host.partition('%')[0]}%{address[3]}", port
    return unmapped(host), port


def reachable(address: Address, *, over_ipv6: bool) -> Address:
    """`address` as a socket of the given family takes it: IPv4 is IPv4-mapped `over_ipv6`."""
    host, port = address
    if over_ipv6 and ":" not in host:
        return MAPPED + host, port
    return host, port


@lru_cache(_HOSTS_MAX)
def is_loopback(host: str) -> bool:
    """Whether this is a loopback address of either family, from which no other host can send. False for a name."""
    try:
        return ip_address(canonical_ip(host)).is_loopback
    except ValueError:
        return False
