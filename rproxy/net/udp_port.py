"""UDP port with bounded work per reactor turn.

It is bound to one address or to all, and reports to which of them a datagram was sent.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
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
from rproxy.net.pktinfo import HAS_PKTINFO, NOT_LOCAL, arrival_address, request_pktinfo, source_control

READ_MAX: Final = 256
"""Datagrams read in one wake-up. Twisted bounds their bytes, at 256 KiB, which empty ones never reach.

The first wake-up after a pause of `WAKE_UPS_S` reads one: there is rarely another, and to find none is a system call.
"""
DATAGRAM_MAX: Final = 64
"""Bytes read of a datagram: more than any PDU has, so that longer datagrams are noticed."""
WAKE_UPS_MAX: Final = 4
WAKE_UPS_S: Final = 0.002
"""After `WAKE_UPS_MAX` wake-ups in this time the port is paused for the rest of it: in a flood, waking up for every few
datagrams costs more than reading them. A round trip may then take that much longer.
"""
BUFFER: Final = 4 * 1024 * 1024
"""Bytes of the kernel's receive buffer, of which it charges about 768 for a PDU."""
_BUFFER_BEYOND_LIMIT: Final = 33 if sys.platform == "linux" else socket.SO_RCVBUF
"""SO_RCVBUFFORCE (socket(7)), which Python does not name."""
SOURCE_GONE: Final = "source-gone"
"""Counter of datagrams that did not leave from the source asked for, which is no longer local."""


class BoundedPort(udp.Port):
    """A UDP port of one socket. It reads at most `READ_MAX` datagrams in one wake-up, and goes on after read errors.

    The protocol's `datagramReceived` gets a third argument: the local address to which the datagram was sent. It is
    empty where the port is bound to a single address, and where the system does not report it.

    `watch(False)` is called on pause, `watch(True)` on resume.
    """

    log = Logger()

    def __init__(self, port: int, protocol: DatagramProtocol, binding: Binding, reactor: Any) -> None:
        super().__init__(port, protocol, binding.host, DATAGRAM_MAX, reactor)
        self.binding = binding
        self.watch: Callable[[bool], object] = lambda watched: None
        self._clock: Any = self.reactor  # which Twisted's annotations take for what watches descriptors only
        self._control_size = 0
        """Bytes of ancillary data to read with a datagram; 0 where its local address is not asked for."""
        self._wake_ups = 0
        """Since `_counted_until` less `WAKE_UPS_S`."""
        self._counted_until = float("-inf")
        self._resumption: IDelayedCall | None = None

    def createInternetSocket(self) -> socket.socket:
        return self.binding.prepared(super().createInternetSocket())

    def bind(self) -> None:
        """Open the socket, which is read from `begin` on. Raises `CannotListenError`."""
        self._bindSocket()
        self._enlarge_buffer()
        if self.binding.is_any and HAS_PKTINFO:
            with suppress(OSError):  # answers then leave from where the route says
                self._control_size = request_pktinfo(self.socket)

    def begin(self, transport: object) -> None:
        """Start to read. The protocol is connected to `transport`, unless another port of it has done so already."""
        if self.protocol.transport is None:
            self.protocol.makeConnection(transport)
        else:
            self.protocol.doStart()
        self.startReading()

    def startListening(self) -> None:
        """`bind` and `begin`, with the port itself as the transport."""
        self.bind()
        self.begin(self)

    def _enlarge_buffer(self) -> None:
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= BUFFER:
            return
        for option in (_BUFFER_BEYOND_LIMIT, socket.SO_RCVBUF):
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
                return
            except OSError:  # no CAP_NET_ADMIN: within net.core.rmem_max then
                continue

    def doRead(self) -> None:
        """Pass received datagrams to the protocol; exceptions of `datagramReceived` are logged."""
        self._pace()
        most = READ_MAX if self._wake_ups > 1 else 1
        if self._control_size:
            self._read_with_local_address(most)
            return
        receive, take = self.socket.recvfrom, self.protocol.datagramReceived
        for _ in range(most):
            try:
                datagram, address = receive(DATAGRAM_MAX)
            except OSError:  # nothing left; or an ICMP error about a datagram sent, whose lost probe shows as much
                return
            try:
                take(datagram, address)
            except Exception:
                self.log.failure("a datagram was not taken in")

    def _read_with_local_address(self, most: int) -> None:
        """`doRead` with local addresses, which costs about 0.5 µs more a datagram."""
        receive, take, size = self.socket.recvmsg, self.protocol.datagramReceived, self._control_size
        for _ in range(most):
            try:
                datagram, control, _, address = receive(DATAGRAM_MAX, size)
            except OSError:
                return
            try:
                take(datagram, address, arrival_address(control[0]) if control else "")
            except Exception:
                self.log.failure("a datagram was not taken in")

    def send(self, datagram: bytes, address: Address, source: str = "") -> bool:
        """Send from `source` if it is given and still local, else from the address that the route says.

        Returns False if it did not leave from the given `source`. Raises `OSError`.
        """
        six = self.addressFamily == socket.AF_INET6
        destination = reachable(address, over_ipv6=six)
        if source and HAS_PKTINFO:
            try:
                self.socket.sendmsg((datagram,), source_control(source, six), 0, destination)
                return True
            except OSError as error:
                if error.errno not in NOT_LOCAL:
                    raise
        self.socket.sendto(datagram, destination)
        return not source

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self._resumption is not None:
            self._resumption.cancel()
            self._resumption = None
        super().connectionLost(reason)

    def _pace(self) -> None:
        """Count a wake-up, and pause if there were too many."""
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


@implementer(IListeningPort)
class UdpPorts:
    """The ports of one protocol, and its transport: one port for each family, or one for both."""

    def __init__(self, ports: Sequence[BoundedPort]) -> None:
        self.ports = tuple(ports)
        self._of_ipv4, self._of_ipv6 = (
            next(
                (port for port in ports if port.binding.is_dual or (port.addressFamily == socket.AF_INET6) is six), None
            )
            for six in (False, True)
        )

    def startListening(self) -> None:
        """Open all or none, on the same port number. Raises `CannotListenError`."""
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
        """Close all; fires once they are."""
        return DeferredList([maybeDeferred(port.stopListening) for port in self.ports])

    def getHost(self) -> IAddress:
        """The first port's address; the port number is the same for all."""
        host: IAddress = self.ports[0].getHost()
        return host

    def write(self, datagram: bytes, address: Address, source: str = "") -> bool:
        """`BoundedPort.send` of the port whose family is the address's. Raises `OSError`, also if there is none."""
        port = self._of_ipv6 if ":" in address[0] else self._of_ipv4
        if port is None:
            raise OSError(errno.EAFNOSUPPORT, "this port does not speak the address's family")
        return port.send(datagram, address, source)


def udp_ports(port: IListeningPort) -> Sequence[IListeningPort]:
    """The single ports, of one socket each, of what `listen_udp` returned."""
    return port.ports if isinstance(port, UdpPorts) else (port,)


def send(transport: Any, datagram: bytes, address: Address, source: str = "") -> bool:
    """Send by a transport of `listen_udp`, from the local address `source` if one is given.

    Returns False if it left from another address, `source` being no longer local. Raises what the transport raises.
    """
    if isinstance(transport, UdpPorts):
        return transport.write(datagram, address, source)
    transport.write(datagram, reachable(address, over_ipv6=speaks_ipv6(transport)))
    return not source


def listen_udp(
    reactor: Any,
    port: int,
    protocol: DatagramProtocol,
    host: str,
    *,
    freebind: bool = False,
    reuse_port: bool = False,
) -> IListeningPort:
    """Open a UDP port on `host`, an IP address; an empty one means every address of both families.

    A reactor that is not one of POSIX opens it in its own way, unbounded. Raises what `reactor.listenUDP` raises.
    """
    if not isinstance(reactor, PosixReactorBase):
        opened: IListeningPort = reactor.listenUDP(port, protocol, host, maxPacketSize=DATAGRAM_MAX)
        return opened
    chosen = bindings(host, freebind=freebind, reuse_port=reuse_port)
    ports = UdpPorts([BoundedPort(port, protocol, each, reactor) for each in chosen])
    ports.startListening()
    return ports


def speaks_ipv6(transport: object) -> bool:
    """Whether a UDP transport has an IPv6 socket."""
    return getattr(transport, "addressFamily", socket.AF_INET) == socket.AF_INET6
