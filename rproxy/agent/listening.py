"""Where the services of this host listen, and how many connections wait there to be accepted: from /proc (proc(5))."""

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
"""Lines read of a file: those of listening sockets come first, whatever else there is."""
_WORD: Final = struct.Struct("=I")
LOOPBACK: Final = ("127.0.0.1", "::1")


@attrs.frozen
class Listener:
    """One listening socket: the address it is bound to, and how many connections its program has yet to accept."""

    host: str
    waiting: int

    @property
    def is_any(self) -> bool:
        return ip_address(self.host).is_unspecified

    def covers(self, address: str) -> bool:
        """Whether it may take what comes to `address`: one for any IPv6 address may be for any IPv4 one as well."""
        return self.host == address or (self.is_any and (":" in self.host or ":" not in address))


def listeners(port: int) -> list[Listener]:
    """The sockets that listen on a TCP port of this host; none where there is no way to know."""
    found: list[Listener] = []
    for path in _FILES:
        try:
            with open(path, encoding="ascii") as file:
                found += _parsed(islice(file, 1, _LISTENERS_MAX), port)
        except (OSError, ValueError, IndexError):  # not on this system, not for us, or another format
            continue
    return found


def _parsed(lines: Iterator[str], port: int) -> Iterator[Listener]:
    for line in lines:
        fields = line.split()
        if fields[3] != _LISTEN:
            return
        address, _, number = fields[1].partition(":")
        if int(number, 16) == port:
            _, _, waiting = fields[4].partition(":")
            yield Listener(_host(address), int(waiting, 16))


def _host(digits: str) -> str:
    """An address as /proc has it: 32-bit words, each in this machine's byte order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    ip = ip_address(b"".join(_WORD.pack(word) for word in words))
    return str(ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else str(ip)


def addresses(found: Collection[Listener], own: Collection[str]) -> list[str]:
    """Where to connect to a service that listens there: best at an address of `own`, which its clients know.

    Where nothing listens that we can see, the service may be behind a rule of the firewall's: then it is tried at all
    addresses of ours that we know.
    """
    reached = [address for address in own if any(listener.covers(address) for listener in found)]
    if not found or reached:
        return list(dict.fromkeys(reached or [*own, *LOOPBACK]))
    loops = [loop for loop in LOOPBACK if any(each.is_any and each.covers(loop) for each in found)]
    return list(dict.fromkeys([*loops, *(each.host for each in found if not each.is_any)]))


def waiting(port: int) -> int:
    """How many connections to a port of ours have yet to be accepted, as far as we can see."""
    return sum(listener.waiting for listener in listeners(port))
