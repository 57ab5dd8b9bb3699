"""UDP ports that a flood cannot keep the reactor at."""

from __future__ import annotations

import socket
import sys
from typing import Any, Final

from twisted.internet import udp
from twisted.internet.interfaces import IListeningPort
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

READ_MAX: Final = 256
"""Datagrams read at once. Twisted limits their bytes, at 256 KiB, and empty ones have none."""
DATAGRAM_MAX: Final = 64
"""Bytes read of a datagram: more than any PDU has, so that a longer one is seen to be too long."""
BUFFER: Final = 4 * 1024 * 1024
"""Bytes that the kernel may keep for us; it counts some 768 for a PDU."""
_BUFFER_BEYOND_LIMIT: Final = 33 if sys.platform == "linux" else socket.SO_RCVBUF
"""SO_RCVBUFFORCE (socket(7)), which Python does not name."""


class BoundedPort(udp.Port):
    """Reads at most `READ_MAX` datagrams before anything else has its turn, and outlives errors of reading."""

    log = Logger()

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


def listen_udp(reactor: Any, port: int, protocol: DatagramProtocol, host: str) -> IListeningPort:
    """Open a UDP port. Raises what `reactor.listenUDP` raises."""
    if not isinstance(reactor, PosixReactorBase):
        opened: IListeningPort = reactor.listenUDP(port, protocol, host, maxPacketSize=DATAGRAM_MAX)
        return opened
    bounded = BoundedPort(port, protocol, host, DATAGRAM_MAX, reactor)
    bounded.startListening()
    return bounded
