"""Where a TCP service of this host listens, and how long its accept queues are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv6Address, ip_address
from itertools import islice
from typing import Final

from rproxy.agent.sock_diag import Listener, SockDiag

_FILES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_SOMAXCONN: Final = "/proc/sys/net/core/somaxconn"
_LISTEN: Final = "0A"
_LISTENERS_MAX: Final = 10_000
"""Lines read of a file. Listening sockets come first, before any number of connections."""
_WORD: Final = struct.Struct("=I")
LOOPBACK: Final = ("127.0.0.1", "::1")


DIAG_RETRY_S: Final = 10.0
"""Time after which sock_diag is tried again. Where its module is missing, each try has the kernel start modprobe(8)."""


class ListeningSockets:
    """Finds the sockets that listen on a port: by sock_diag, or else in /proc, which takes milliseconds."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        """`seconds` is a monotonic clock. Opens nothing."""
        self.diag = SockDiag()
        self._seconds = seconds
        self._diag_from = float("-inf")
        """When to try sock_diag again."""

    @property
    def is_slow(self) -> bool:
        """Whether the last search was in /proc."""
        return self._diag_from > float("-inf")

    def find(self, port: int) -> list[Listener]:
        """The sockets that listen on a TCP port of this host, of both families; empty if none are visible."""
        now = self._seconds()
        if now >= self._diag_from:
            try:
                found = self.diag.listening(port)
            except OSError:
                self._diag_from = now + DIAG_RETRY_S
            else:
                self._diag_from = float("-inf")
                return found
        return proc_listeners(port)

    def close(self) -> None:
        """Close the netlink socket until the next search. May be called at any time."""
        self.diag.close()


def proc_listeners(port: int) -> list[Listener]:
    """The sockets that listen on a TCP port, as /proc/net/tcp and tcp6 show them (proc(5)); empty without these."""
    found: list[Listener] = []
    for path in _FILES:
        try:
            with open(path, encoding="ascii") as file:
                found += _parse(islice(file, 1, _LISTENERS_MAX), port)
        except (OSError, ValueError, IndexError):  # another system, no permission, or an unknown format
            continue
    return found


def backlog_max() -> int | None:
    """The longest accept queue that the kernel grants to a socket (listen(2)); None if /proc does not show it."""
    try:
        with open(_SOMAXCONN, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


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


def reached(found: Collection[Listener], own: Collection[str]) -> list[Listener]:
    """Those of `found` that connections to the addresses `own` reach: for each, the most specific one, or several that
    share it (SO_REUSEPORT). All of `found` if none is reached, as when a firewall redirects the port.
    """
    reach = []
    for address in own:
        six = ":" in address
        fits = [listener for listener in found if listener.host == address]
        fits = fits or [listener for listener in found if listener.is_wildcard and (":" in listener.host) is six]
        reach += fits or [listener for listener in found if listener.may_accept(address)]
    return reach or list(found)
