"""Reads the PROXY header that a client's connection begins with, on Twisted's transports."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carriers.portable.client_side import ClientCarrier, ClientSide
from rproxy.net.tcp_state import is_broken
from rproxy.sessions.endings import Ending
from rproxy.sessions.proxy_headers import HEADER_S, ProxyHeaders
from rproxy.sessions.service import Service
from rproxy.wire.proxy_header import MalformedHeader, parse


class HeaderFactory(Factory):
    """Put below the factory of a port, `above`, which makes TLS and the like around a `ClientSide`."""

    noisy = False

    def __init__(self, above: Factory, carrier: ClientCarrier, service: Service) -> None:
        self.above = above
        self._carrier = carrier
        self._service = service

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        protocol: Any = self.above.buildProtocol(addr)
        rules, side = self._service.proxy_headers, self._carrier.newest
        if rules is None or protocol is None or side is None:
            return protocol  # type: ignore[no-any-return]
        return HeaderReader(protocol, side, self._carrier, rules)

    def doStop(self) -> None:
        """The port, which started `above`, is closed."""
        self.above.doStop()


@implementer(IHalfCloseableProtocol)
class HeaderReader(Protocol):
    """Has the connection until its header is complete; then `above` has it, as if it had just been accepted.

    Its `ClientSide`, in `above`, is the link of the session all the time.
    """

    transport: Any

    def __init__(self, above: Protocol, side: ClientSide, carrier: ClientCarrier, rules: ProxyHeaders) -> None:
        self._above = above
        self._side = side
        self._carrier = carrier
        self._rules = rules
        self._data = b""

    def connectionMade(self) -> None:
        self._side.transport = self.transport
        self._carrier.clients.add(self._side)
        if self._rules.trusts(self._side.peer_address()):
            self._carrier.deadlines.arm(self, HEADER_S, self._expire)
        else:
            self._refuse(Ending.UNTRUSTED)

    def dataReceived(self, data: bytes) -> None:
        if self._side.session.ending is not None:
            return
        self._data += data
        try:
            header = parse(self._data)
        except MalformedHeader as flaw:
            self._refuse(Ending.BAD_HEADER, str(flaw))
            return
        if header is not None:
            self._carrier.deadlines.disarm(self)
            self._side.session.header = header
            self._side.session.handshake_completed()
            self._hand_over(self._data[header.size :])

    def _hand_over(self, rest: bytes) -> None:
        """Pass the connection on, with the data behind the header."""
        transport, above = self.transport, self._above
        transport.protocol = above
        above.makeConnection(transport)
        if rest and self._side.session.ending is None:
            above.dataReceived(rest)

    def _expire(self) -> None:
        self._refuse(Ending.HEADER_TIMEOUT)

    def _refuse(self, ending: Ending, why: str = "") -> None:
        self._rules.refused(ending, self._side.peer_address(), why)
        self._side.session.ended(ending)
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """The client ends its stream before its header is complete."""
        if is_broken(self.transport):
            self.transport.abortConnection()
        elif self._data:
            self._refuse(Ending.BAD_HEADER, "the connection ends within it")
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing is written before the header is complete."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._carrier.deadlines.disarm(self)
        self._side.connectionLost(reason)
