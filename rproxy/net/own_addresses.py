"""This host's own addresses and ports, as the kernel has them now."""

from __future__ import annotations

import socket
from typing import Final

import psutil

from rproxy.net.addresses import Address, plain

_PORT_RANGE: Final = "/proc/sys/net/ipv4/ip_local_port_range"


def ephemeral_ports() -> range:
    """Ports that the kernel chooses from for outgoing connections, in both families; where unknown, all above 1023."""
    try:
        with open(_PORT_RANGE, encoding="ascii") as file:
            lowest, highest = map(int, file.read().split())
    except (OSError, ValueError):
        return range(1024, 65536)
    return range(lowest, highest + 1)


def local_addresses() -> frozenset[str]:
    """Every IP address of this host now, in text, without the interface of link-local ones. Raises `OSError`."""
    families = (socket.AF_INET, socket.AF_INET6)
    return frozenset(
        each.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family in families
    )


def local_address(remote: Address) -> str:
    """This host's address that datagrams to `remote` would leave from now. Raises `OSError` without a route."""
    family = socket.AF_INET6 if ":" in remote[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(remote)  # sends nothing
        return plain(sock.getsockname())[0]
