"""Sets of networks, and hosts looked up in them, for every client."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Final

from rproxy.net.addresses import Network

_BITS: Final = {4: 32, 16: 128}
"""By the bytes of an address."""


def packed(host: str) -> bytes:
    """The 4 or 16 bytes of an IP address in text, without a link's index; none for what is no address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        return b""


class Networks:
    """A set of networks. A look-up takes a time that grows with the number of different prefix lengths only."""

    def __init__(self, networks: Iterable[Network]) -> None:
        lengths: defaultdict[int, defaultdict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for network in networks:
            size = 4 if isinstance(network, IPv4Network) else 16
            shift = _BITS[size] - network.prefixlen
            lengths[size][shift].add(int(network.network_address) >> shift)
        self._prefixes = {size: tuple(shifts.items()) for size, shifts in lengths.items()}
        """By the bytes of an address: how many of its bits are the host's, and the networks without these."""

    def __bool__(self) -> bool:
        return bool(self._prefixes)

    def __contains__(self, address: bytes) -> bool:
        """Whether an address, as `packed` returns it, is of one of the networks."""
        prefixes = self._prefixes.get(len(address))
        if prefixes is None:
            return False
        number = int.from_bytes(address)
        return any(number >> shift in networks for shift, networks in prefixes)
