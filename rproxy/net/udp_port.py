"""UDP ports that a flood cannot keep the reactor at, on one address or on all, and that know where they are asked."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from twisted.internet import udp
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.net.addresses import Address, reachable
from rproxy.net.binding import Binding, bindings

READ_MAX: Final = 256
"""Datagrams read at once. Twisted limits their bytes, at 256 KiB, and empty ones have none."""
DATAGRAM_MAX: Final = 64
"""Bytes read of a datagram: more than any PDU has, so that a longer one is seen to be too long."""
WAKE_UPS_MAX: Final = 4
WAKE_UPS_S: Final = 0.002
"""Beyond so many wake-ups in this time the port is left alone for the rest of it: in a flood, waking up for every few
datagrams costs more than to read them. A round trip may take so much longer then.
"""
BUFFER: Final = 4 * 1024 * 1024
"""Bytes that the kernel may keep for us; it counts some 768 for a PDU."""
_BUFFER_BEYOND_LIMIT: Final = 33 if sys.platform == "linux" else socket.SO_RCVBUF
"""SO_RCVBUFFORCE (socket(7)), which Python does not name."""
_TELLS_WHERE: Final = sys.platform == "linux"
_IP_PKTINFO: Final = 8
"""ip(7): the same option for being told where a datagram arrived and for saying where one is to leave from."""
_PKTINFO: Final = struct.Struct("i4s4s")
"""The interface's index, the local address, the header's destination."""
_PKTINFO6: Final = struct.Struct("16si")
SOURCE_GONE: Final = "source-gone"
"""Counts what left from another address than it was to, that being ours no more."""
_ADDRESSES_MAX: Final = 1024
"""Local addresses whose form is remembered."""
_NOT_FROM_THERE: Final = frozenset(
    {errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO, errno.ENETUNREACH, errno.EHOSTUNREACH}
)
"""Errors of sending from an address that is no local one any more, or that no route leads away from."""


class BoundedPort(udp.Port):
    """Reads at most `READ_MAX` datagrams before anything else has its turn, and outlives errors of reading.

    The protocol's `datagramReceived` gets a third argument, the local address that a datagram was sent to: empty
    where that is known anyhow, the port being bound to one address, or cannot be known. `watch` is told when nobody
    need look at its descriptor any more, and when again.
    """

    log = Logger()

    def __init__(self, port: int, protocol: DatagramProtocol, binding: Binding, reactor: Any) -> None:
        super().__init__(port, protocol, binding.host, DATAGRAM_MAX, reactor)
        self.binding = binding
        self.watch: Callable[[bool], object] = lambda watched: None
        self._clock: Any = self.reactor  # which Twisted types as what watches descriptors
        self._control_size = 0
        """Bytes for what the kernel tells with a datagram."""
        self._wake_ups = 0
        self._counted_until = float("-inf")
        self._resumption: IDelayedCall | None = None

    def createInternetSocket(self) -> socket.socket:
        sock: socket.socket = super().createInternetSocket()
        try:
            self.binding.prepare(sock)
        except OSError:
            sock.close()
            raise
        return sock

    def bind(self) -> None:
        """Open the socket, which is not read before `begin`. Raises `CannotListenError`."""
        self._bindSocket()
        self._enlarge_buffer()
        if self.binding.is_any and _TELLS_WHERE:
            six = self.addressFamily == socket.AF_INET6
            option = (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO) if six else (socket.IPPROTO_IP, _IP_PKTINFO)
            with suppress(OSError):  # it only helps
                self.socket.setsockopt(*option, 1)
                self._control_size = socket.CMSG_SPACE(_PKTINFO6.size if six else _PKTINFO.size)

    def begin(self, transport: object) -> None:
        """Read; the protocol is told that `transport` is how it can send, unless another port has told it that."""
        if self.protocol.transport is None:
            self.protocol.makeConnection(transport)
        else:
            self.protocol.doStart()
        self.startReading()

    def startListening(self) -> None:
        self.bind()
        self.begin(self)

    def _enlarge_buffer(self) -> None:
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= BUFFER:
            return
        for option in (_BUFFER_BEYOND_LIMIT, socket.SO_RCVBUF):
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
                return
            except OSError:  # needs CAP_NET_ADMIN; without it, the kernel gives what it allows
                continue

    def doRead(self) -> None:
        self._pace()
        if self._control_size:
            self._read_with_local_address()
            return
        receive, take = self.socket.recvfrom, self.protocol.datagramReceived
        for _ in range(READ_MAX):
            try:
                datagram, address = receive(DATAGRAM_MAX)
            except OSError:  # nothing there; or an ICMP error of what was sent, which a lost probe tells as well
                return
            try:
                take(datagram, address)
            except Exception:
                self.log.failure("a datagram was not taken in")

    def _read_with_local_address(self) -> None:
        """The same, for half a microsecond more a datagram: the kernel tells where each one arrived."""
        receive, take, size = self.socket.recvmsg, self.protocol.datagramReceived, self._control_size
        for _ in range(READ_MAX):
            try:
                datagram, control, _, address = receive(DATAGRAM_MAX, size)
            except OSError:
                return
            try:
                take(datagram, address, _arrived_at(control[0]) if control else "")
            except Exception:
                self.log.failure("a datagram was not taken in")

    def send(self, datagram: bytes, address: Address, source: str = "") -> bool:
        """Send, from `source` if it is given and still ours, else from where the route says. Raises `OSError`.

        Returns whether it left from where it was to.
        """
        six = self.addressFamily == socket.AF_INET6
        there = reachable(address, over_ipv6=six)
        if source and _TELLS_WHERE:
            try:
                self.socket.sendmsg((datagram,), _leaving_from(source, six), 0, there)
                return True
            except OSError as error:
                if error.errno not in _NOT_FROM_THERE:
                    raise
        self.socket.sendto(datagram, there)
        return not source

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self._resumption is not None:
            self._resumption.cancel()
            self._resumption = None
        super().connectionLost(reason)

    def _pace(self) -> None:
        """One more wake-up."""
        now = self._clock.seconds()
        if now >= self._counted_until:
            self._wake_ups, self._counted_until = 0, now + WAKE_UPS_S
        self._wake_ups += 1
        if self._wake_ups == WAKE_UPS_MAX:
            self._resumption = self._clock.callLater(self._counted_until - now, self._resume)
            self.stopReading()
            self.watch(False)

    def _resume(self) -> None:
        self._resumption = None
        self.startReading()
        self.watch(True)


@lru_cache(_ADDRESSES_MAX)
def _arrived_at(told: tuple[int, int, bytes]) -> str:
    """The local address that the kernel tells of, with the interface of one that is good on a link only.

    Empty where nothing can be sent from it.
    """
    level, _, control = told
    if level == socket.IPPROTO_IP:
        return str(ip_address(_PKTINFO.unpack(control)[1]))
    packed, index = _PKTINFO6.unpack(control)
    ip = IPv6Address(packed)
    if ip.is_multicast or (ip.ipv4_mapped is not None and ip.ipv4_mapped.is_multicast):
        return ""
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return f"{ip}%{index}" if ip.is_link_local else str(ip)


@lru_cache(_ADDRESSES_MAX)
def _leaving_from(source: str, over_ipv6: bool) -> tuple[tuple[int, int, bytes], ...]:
    """What tells the kernel to send from `source`."""
    host, _, index = source.partition("%")
    if not over_ipv6:
        return ((socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO.pack(0, socket.inet_aton(host), bytes(4))),)
    mapped, _ = reachable((host, 0), over_ipv6=True)
    told = _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, mapped), int(index or 0))
    return ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, told),)


@implementer(IListeningPort)
class UdpPorts:
    """The sockets of one protocol, and its transport: one for each family, or one for both."""

    def __init__(self, ports: Sequence[BoundedPort]) -> None:
        self.ports = tuple(ports)

    def startListening(self) -> None:
        """Open all or none. Raises `CannotListenError`."""
        opened: list[BoundedPort] = []
        try:
            for port in self.ports:
                port.port = port.port or (opened[0].getHost().port if opened else 0)
                port.bind()
                opened.append(port)
        except CannotListenError:
            for port in opened:
                port.socket.close()
            raise
        for port in self.ports:
            port.begin(self)

    def stopListening(self) -> Deferred[Any]:
        return DeferredList([maybeDeferred(port.stopListening) for port in self.ports])

    def getHost(self) -> IAddress:
        """The first one's: the port is the same for all."""
        host: IAddress = self.ports[0].getHost()
        return host

    def write(self, datagram: bytes, address: Address, source: str = "") -> bool:
        """As `BoundedPort.send`, by the socket that reaches the address."""
        six = ":" in address[0]
        for port in self.ports:
            if port.binding.is_dual or six is (port.addressFamily == socket.AF_INET6):
                return port.send(datagram, address, source)
        raise OSError(errno.EAFNOSUPPORT, "this port does not speak the address's family")


def udp_ports(port: IListeningPort) -> Sequence[IListeningPort]:
    """The ports of `listen_udp`, each of one socket."""
    return port.ports if isinstance(port, UdpPorts) else (port,)


def send(transport: Any, datagram: bytes, address: Address, source: str = "") -> bool:
    """Send by a transport of `listen_udp`, from the local address `source` where one is given.

    Returns whether it left from there: if that is no address of ours any more, it leaves from another one. Raises what
    the transport raises.
    """
    if isinstance(transport, UdpPorts):
        return transport.write(datagram, address, source)
    transport.write(datagram, reachable(address, over_ipv6=speaks_ipv6(transport)))
    return not source


def listen_udp(
    reactor: Any, port: int, protocol: DatagramProtocol, host: str, *, freebind: bool = False
) -> IListeningPort:
    """Open a UDP port: on `host`, or, where that is empty, on every address of both families.

    Raises what `reactor.listenUDP` raises.
    """
    if not isinstance(reactor, PosixReactorBase):
        opened: IListeningPort = reactor.listenUDP(port, protocol, host, maxPacketSize=DATAGRAM_MAX)
        return opened
    ports = UdpPorts([BoundedPort(port, protocol, each, reactor) for each in bindings(host, freebind=freebind)])
    ports.startListening()
    return ports


def speaks_ipv6(transport: object) -> bool:
    """Whether a UDP transport's socket is an IPv6 one."""
    return getattr(transport, "addressFamily", socket.AF_INET) == socket.AF_INET6
