"""Where connections to back-ends come from: addresses of this host, taken in turn, or the client's own."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import SocketType
from typing import Any, Final

import attrs

from rproxy.net.addresses import Address, written

Report = Callable[[str, str], None]
"""Called for every connection that cannot come from its source: with the source, and with a line for an operator."""
CLIENT: Final = "client"
"""What `ClientSource` is called in reports and messages."""
_NO_PORT: Final = (socket.IPPROTO_IP, 24, 1)
"""Linux's IP_BIND_ADDRESS_NO_PORT, for both families: bind(2) takes the address alone, and connect(2) finds a port that
is free towards that back-end (ip(7)). Without it a port serves one connection, whatever it leads to.
"""
_TRANSPARENT: Final = {socket.AF_INET: (socket.IPPROTO_IP, 19, 1), socket.AF_INET6: (socket.IPPROTO_IPV6, 75, 1)}
"""Linux's IP_TRANSPARENT and IPV6_TRANSPARENT: bind(2) takes addresses of other hosts. Python names none of these."""
_REUSE: Final = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
_KEPT: Final = (
    (socket.SOL_SOCKET, socket.SO_OOBINLINE),
    *((socket.IPPROTO_TCP, int(getattr(socket, name))) for name in ("TCP_QUICKACK",) if hasattr(socket, name)),
)
"""Options that carriers set before they connect."""
LOCAL_ERRORS: Final = frozenset(
    {errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EACCES, errno.EPERM}
)
"""Errors of a connect that are this host's own fault, not that of the host that was connected to."""
_UNUSABLE: Final = (errno.EADDRNOTAVAIL, errno.EINVAL)
"""Errors of connect(2) that are the source address' fault: no port is left, or it cannot have a route there, as a
loopback address has none to other hosts.
"""


@attrs.define
class UnusableSource(Exception):
    """Nothing can be connected from `source`."""

    source: str
    reason: str
    """For an operator."""

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class AddressSource:
    """IP addresses of this host, taken in turn; one that cannot be used is skipped for the next one.

    Back-ends of a family that none of them is of are connected to from the address that routing chooses.
    """

    def __init__(self, hosts: Sequence[str], report: Report, *, freebind: bool = False) -> None:
        """`freebind`: this host may have the addresses only later."""
        self._hosts = tuple(hosts)
        self._freebind = freebind
        self._of = {
            family: tuple(host for host in hosts if _family(host) == family)
            for family in (socket.AF_INET, socket.AF_INET6)
        }
        self._turn = 0
        self._report = report

    def check(self) -> None:
        if self._freebind:
            return
        for host in self._hosts:
            try:
                with socket.socket(_family(host)) as sock:
                    sock.bind(_bindable(host))
            except OSError as error:
                raise UnusableSource(host, _reason(error)) from None

    def connect(self, sock: SocketType, remote: Address, client: Address | None) -> int:
        hosts = self._of[socket.AddressFamily(sock.family)]
        if not hosts:
            return sock.connect_ex(remote)
        _set_no_port(sock)
        for _ in hosts:
            self._turn += 1
            host = hosts[self._turn % len(hosts)]
            try:
                sock.bind(_bindable(host))
            except OSError as failure:
                self._report(host, f"cannot connect from {host}: {_reason(failure)}")
                continue
            error = sock.connect_ex(remote)
            if error not in _UNUSABLE:
                return error
            reason = "no port is left" if error == errno.EADDRNOTAVAIL else os.strerror(error)
            self._report(host, f"cannot connect from {host} to {written(remote)}: {reason}")
        return errno.EADDRNOTAVAIL


class ClientSource:
    """The client's own address, with the client's own port where that is free.

    Where that cannot be, as the client is of another family or on the back-end's own host, the connection comes from
    the address that routing chooses. Linux only.
    """

    def __init__(self, report: Report) -> None:
        self._report = report

    def check(self) -> None:
        try:
            with socket.socket() as sock:
                _set_transparent(sock, socket.AF_INET)
        except PermissionError:
            raise UnusableSource(
                CLIENT,
                "needs the capability CAP_NET_ADMIN, which this process does not have (root without --uid has it; "
                "systemd: in AmbientCapabilities= and CapabilityBoundingSet=)",
            ) from None
        except OSError as error:
            raise UnusableSource(CLIENT, f"this system has no IP_TRANSPARENT ({error.strerror})") from None

    def connect(self, sock: SocketType, remote: Address, client: Address | None) -> int:
        if client is None:
            return self._connect_plainly(sock, remote, "a client without an IP address", "it has none")
        family, (host, port) = socket.AddressFamily(sock.family), client
        if _family(host) != family:
            return self._connect_plainly(sock, remote, host, "it is of another family")
        if host == remote[0]:  # that host would drop packets from its own address
            return self._connect_plainly(sock, remote, host, "it is the back-end's own")
        try:
            _set_transparent(sock, family)
            error = _connect_from(sock, (host, port), remote)
            if error == errno.EADDRNOTAVAIL:  # that port of the client leads to this back-end already, or did just now
                _replace(sock)
                _set_transparent(sock, family)
                _set_no_port(sock)
                error = _connect_from(sock, (host, 0), remote)
        except OSError as failure:
            self._report(CLIENT, f"cannot connect from the address of {host}: {failure.strerror}")
            return errno.EADDRNOTAVAIL
        if error == errno.EINVAL:
            _replace(sock)
            return self._connect_plainly(sock, remote, host, os.strerror(error))
        return error

    def _connect_plainly(self, sock: SocketType, remote: Address, host: str, reason: str) -> int:
        line = f"cannot connect to {written(remote)} from the address of {host}, but only from this host's: {reason}"
        self._report(CLIENT, line)
        return sock.connect_ex(remote)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bindable(host: str) -> tuple[Any, ...]:
    """The socket address of `host` with port 0; the interface of a link-local one (fe80::1%eth0) is a number in it."""
    if "%" not in host:
        return host, 0
    address: tuple[Any, ...] = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4]
    return address


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host does not have this address"
    return error.strerror or str(error)


def _set_no_port(sock: SocketType) -> None:
    """Where the system has no such option, bind(2) takes a port, too."""
    with suppress(OSError):
        sock.setsockopt(*_NO_PORT)


def _set_transparent(sock: SocketType, family: socket.AddressFamily) -> None:
    sock.setsockopt(*_TRANSPARENT[family])
    sock.setsockopt(*_REUSE)


def _connect_from(sock: SocketType, local: Address, remote: Address) -> int:
    """As connect(2), after bind(2), whose EADDRINUSE, and EACCES for a port below 1024, are EADDRNOTAVAIL.

    EINVAL of either is about the address: nothing can come from it, or not to there.
    """
    try:
        sock.bind(local)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return errno.EINVAL
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        return errno.EADDRNOTAVAIL
    return sock.connect_ex(remote)


def _replace(sock: SocketType) -> None:
    """Make it a new socket, on the same descriptor: one that is bound to a port cannot be bound to another."""
    with socket.socket(sock.family, sock.type) as fresh:
        fresh.setblocking(False)
        for option in _KEPT:
            fresh.setsockopt(*option, sock.getsockopt(*option))
        os.dup2(fresh.fileno(), sock.fileno(), inheritable=False)
