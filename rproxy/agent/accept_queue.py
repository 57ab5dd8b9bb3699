"""Where this host's TCP services listen, and how long their accept queues are, from /proc (proc(5))."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from ipaddress import IPv6Address, ip_address
from itertools import islice
from typing import Final

import attrs

_FILES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN: Final = "0A"
_LISTENERS_MAX: Final = 10_000
"""Lines read of a file. Listening sockets come first, before any number of connections."""
_WORD: Final = struct.Struct("=I")
LOOPBACK: Final = ("127.0.0.1", "::1")


@attrs.frozen
class Listener:
    """A listening socket: the IP address it is bound to, and the number of connections in its accept queue."""

    host: str
    queued: int

    @property
    def is_wildcard(self) -> bool:
        """Whether it is bound to every address, of one family or of both."""
        return ip_address(self.host).is_unspecified

    def may_accept(self, address: str) -> bool:
        """Whether it may accept connections to a local address. Whether a wildcard IPv6 socket is dual is unknown."""
        return self.host == address or (self.is_wildcard and (":" in self.host or ":" not in address))


def listeners(port: int) -> list[Listener]:
    """The sockets that listen on a TCP port of this host; empty if /proc does not show them."""
    found: list[Listener] = []
    for path in _FILES:
        try:
            with open(path, encoding="ascii") as file:
                found += _parse(islice(file, 1, _LISTENERS_MAX), port)
        except (OSError, ValueError, IndexError):  # another system, no permission, or an unknown format
            continue
    return found


def _parse(lines: Iterator[str], port: int) -> Iterator[Listener]:
    for line in lines:
        fields = line.split()
        if fields[3] != _LISTEN:
            return
        address, _, number = fields[1].partition(":")
        if int(number, 16) == port:
            _, _, queued = fields[4].partition(":")  # rx_queue
            yield Listener(_host(address), int(queued, 16))


def _host(digits: str) -> str:
    """An address in text, from /proc's hexadecimal 32-bit words in host byte order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    ip = ip_address(b"".join(_WORD.pack(word) for word in words))
    return str(ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else str(ip)


def service_addresses(found: Collection[Listener], own: Collection[str]) -> list[str]:
    """The local addresses at which to connect to a service that listens at `found`, best first.

    Addresses of `own`, at which its clients connect, come first. If no listener is visible, a firewall may redirect
    the port: then all known addresses are returned.
    """
    reachable = [address for address in own if any(listener.may_accept(address) for listener in found)]
    if not found or reachable:
        return list(dict.fromkeys(reachable or [*own, *LOOPBACK]))
    loopback = [address for address in LOOPBACK if any(each.is_wildcard and each.may_accept(address) for each in found)]
    return list(dict.fromkeys([*loopback, *(each.host for each in found if not each.is_wildcard)]))


def queued(port: int) -> int:
    """The number of connections to a TCP port that are not yet accepted; 0 if /proc does not show it."""
    return sum(listener.queued for listener in listeners(port))
