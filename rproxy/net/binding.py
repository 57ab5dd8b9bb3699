"""What listening sockets are bound to: one address, or every address of both families."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import attrs

from rproxy.net.addresses import Address

ANY_IPV4: Final = "0.0.0.0"  # noqa: S104 - everywhere is twistd's own default for listeners
ANY_IPV6: Final = "::"
CAN_FREEBIND: Final = sys.platform == "linux"
CAN_HAND_OVER: Final = sys.platform == "linux"
"""Whether `handover` works: other systems distribute clients over the sockets of a port in other ways or not at all."""
_FREEBIND: Final = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
"""Linux's IP_FREEBIND and IPV6_FREEBIND, which Python does not name."""


@attrs.frozen
class Binding:
    """One socket's address. `host` is an IP address in text; ``::`` accepts IPv4 as well unless it is `ipv6_only`.

    With `freebind` the address need not be this host's yet. It needs a system that `CAN_FREEBIND`. With `reuse_port`
    other sockets of the same user that have it, too, may be bound to the same address (SO_REUSEPORT, socket(7)).
    """

    host: str
    ipv6_only: bool = False
    freebind: bool = False
    reuse_port: bool = False

    @property
    def is_any(self) -> bool:
        """Whether it is every address of its families."""
        return self.host in (ANY_IPV4, ANY_IPV6)

    @property
    def is_dual(self) -> bool:
        """Whether one socket accepts both families."""
        return self.host == ANY_IPV6 and not self.ipv6_only

    def prepared(self, sock: socket.socket) -> socket.socket:
        """A new socket with the options set that it needs before it is bound. Closes it if it raises `OSError`."""
        try:
            self._prepare(sock)
        except OSError:
            sock.close()
            raise
        return sock

    def _prepare(self, sock: socket.socket) -> None:
        if sock.family == socket.AF_INET6 and self.host == ANY_IPV6:
            with suppress(OSError):  # a system without sockets of both families: they are IPv6-only anyhow
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, self.ipv6_only)
        if self.freebind:
            sock.setsockopt(*_FREEBIND[sock.family], 1)
        if self.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def bindings(host: str, *, freebind: bool = False, reuse_port: bool = False) -> tuple[Binding, ...]:
    """The sockets that `host` takes. An empty one means every address of both families.

    For that it is one socket of both families, whatever net.ipv6.bindv6only says; two where a system has no such
    sockets; and one of IPv4 where there is no IPv6.
    """
    if host:
        return (Binding(host, freebind=freebind, reuse_port=reuse_port),)
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError:
        return (Binding(ANY_IPV4, reuse_port=reuse_port),)
    with sock:
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        except OSError:
            return (
                Binding(ANY_IPV4, reuse_port=reuse_port),
                Binding(ANY_IPV6, ipv6_only=True, reuse_port=reuse_port),
            )
    return (Binding(ANY_IPV6, reuse_port=reuse_port),)


def wider_hosts(host: str) -> tuple[str, ...]:
    """The hosts whose sockets get all that those of `host` get, so that binding both would fail."""
    if not host:
        return ()
    if host in (ANY_IPV4, ANY_IPV6):
        return ("",)
    return ("", ANY_IPV6) if ":" in host else ("", ANY_IPV4, ANY_IPV6)


def widest(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """These addresses without those that others include. Port 0 is another port each time."""
    given = dict.fromkeys(addresses)
    for host, port in list(given):
        if host == ANY_IPV4 and port and (ANY_IPV6, port) in given:
            given["", port] = None
    return tuple(
        (host, port)
        for host, port in given
        if not port or not any((wider, port) in given for wider in wider_hosts(host))
    )
