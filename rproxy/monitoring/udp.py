"""UDP ports that a flood cannot keep the reactor at."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from twisted.internet import udp
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

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


class BoundedPort(udp.Port):
    """Reads at most `READ_MAX` datagrams before anything else has its turn, and outlives errors of reading.

    `watch` is told when nobody need look at its descriptor any more, and when again.
    """

    log = Logger()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.watch: Callable[[bool], object] = lambda watched: None
        self._clock: Any = self.reactor  # which Twisted types as what watches descriptors
        self._wake_ups = 0
        self._counted_until = float("-inf")
        self._resumption: IDelayedCall | None = None

    def startListening(self) -> None:
        super().startListening()
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
        receive, take = self.socket.recvfrom, self.protocol.datagramReceived
        for _ in range(READ_MAX):
            try:
                datagram, address = receive(self.maxPacketSize)
            except OSError:  # nothing there; or an ICMP error of what was sent, which a lost probe tells as well
                return
            try:
                take(datagram, address)
            except Exception:
                self.log.failure("a datagram was not taken in")

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


def listen_udp(reactor: Any, port: int, protocol: DatagramProtocol, host: str) -> IListeningPort:
    """Open a UDP port. Raises what `reactor.listenUDP` raises."""
    if not isinstance(reactor, PosixReactorBase):
        opened: IListeningPort = reactor.listenUDP(port, protocol, host, maxPacketSize=DATAGRAM_MAX)
        return opened
    bounded = BoundedPort(port, protocol, host, DATAGRAM_MAX, reactor)
    bounded.startListening()
    return bounded
