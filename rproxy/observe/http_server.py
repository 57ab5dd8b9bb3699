"""The operators' HTTP server: Twisted's, made to do little at once, to keep little, and to wait for nobody long.

Requests are read, answers rendered and written piece by piece in `Turns`, for all connections together. A connection
has one request at a time; the next one is looked at when the answer has been handed to the kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final, cast

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel
from twisted.web.pages import forbidden
from twisted.web.resource import IResource

from rproxy.observe.access import permitted
from rproxy.timing.work_queue import WorkQueue

CONNECTIONS_MAX: Final = 64
"""Beyond them the one makes room that has kept us waiting longest; if none does, the new one is closed."""
REQUEST_S: Final = 10.0
"""In which a request must have come, since its first byte, and the first one must have begun."""
IDLE_S: Final = 75.0
"""For which a connection may stay open without a further one."""
ANSWER_S: Final = 60.0
"""In which its answer must have been read."""
LINGER_S: Final = 10.0
"""How long a client has to read the last answer and to end the connection, before that is aborted."""
LINGER_BYTES: Final = 1 << 20
"""Of what it still sends meanwhile."""
READ_BYTES: Final = 2048
"""Read and looked at in one go."""
TARGET_MAX: Final = 1024
"""Bytes of what a request asks for."""
BODY_MAX: Final = 0
"""Bytes. One of unknown length is always too long."""
UNREAD_BYTES: Final = 65536
"""Of an answer that the kernel may keep for each client; it counts twice as many."""
BACKLOG: Final = 16
"""Few: all of them are accepted in one turn of the reactor."""


class Request(server.Request):
    """Has no body and no cookies."""

    channel: Any = None
    """The `Channel` that it came on, None when that is lost or done with it."""

    def gotLength(self, length: int | None) -> None:
        if length is not None and length <= BODY_MAX:
            super().gotLength(length)
            return
        self.requestHeaders.removeHeader(b"expect")  # which would be answered with an invitation
        self.channel.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def parseCookies(self) -> None:
        """It takes long where there are thousands."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if len(path) > TARGET_MAX:  # as does taking these apart
            self.channel.refuse(HTTPStatus.REQUEST_URI_TOO_LONG)
        else:
            super().requestReceived(command, path, version)

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.channel is not None:
            self.channel.site.awaited.setdefault(self.channel)


class Channel(HTTPChannel):
    """One client. Its `transport` is a TCP transport of Twisted's."""

    site: AdminSite
    maxHeaders = 100

    def __init__(self) -> None:
        super().__init__()
        self._acting = False
        """Whether a request has been taken and its answer is not yet handed to the kernel; nothing is read then."""
        self._answered: Request | None = None
        """All of its answer is written."""
        self._idle = True
        """Nothing of a request has come."""
        self._ending = False
        self._discarded = 0
        self._gone = False

    def connectionMade(self) -> None:
        self._tcp = cast(Any, self.transport)
        self._tcp.bufferSize = READ_BYTES
        self._tcp.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
        self.site.connections.add(self)
        super().connectionMade()
        # As a pull producer it is told whenever all that was written has left; else only after much was.
        self._tcp.unregisterProducer()
        self._tcp.registerProducer(self, False)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave()
        super().connectionLost(reason)

    def abort(self) -> None:
        """End it now, whatever has not been read."""
        self._leave()
        self._tcp.abortConnection()

    def _leave(self) -> None:
        self._gone = True
        self.setTimeout(None)
        self.site.connections.discard(self)
        self.site.awaited.pop(self, None)

    def resetTimeout(self) -> None:
        """Bytes that trickle are no reason to wait longer."""

    def timeoutConnection(self) -> None:
        if self._idle:
            self._leave()
            super().loseConnection()
        else:
            self.abort()

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.abort()
            return
        self._tcp.pauseProducing()
        self.site.work.add(lambda: self._look(data))

    def _look(self, data: bytes) -> None:
        """At what has been received. Nothing more is read before."""
        if self._gone or self._ending:
            return
        begins = self._idle and bool(data.strip())
        if begins:
            self._idle = False
            self.setTimeout(REQUEST_S)
        try:
            if begins and data.startswith(b"\x16"):
                raise ValueError("begins a TLS session, in which the end of a line may never come")
            super().dataReceived(data)
        except ValueError:  # also of a length of more digits than Python reads
            self.refuse(HTTPStatus.BAD_REQUEST)
        if not self._acting:
            self._tcp.resumeProducing()

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def allContentReceived(self) -> None:
        self._acting = True
        self.site.awaited.pop(self, None)
        super().allContentReceived()
        if not self._ending:
            self.setTimeout(ANSWER_S)

    def requestDone(self, request: Request) -> None:
        """Its answer is written, though it may not have left."""
        self._answered = request
        self._tcp.startWriting()

    def resumeProducing(self) -> None:
        """All that was written has left."""
        super().resumeProducing()
        self.site.awaited.pop(self, None)
        if self._answered is not None:
            request, self._answered = self._answered, None
            self._acting, self._idle = False, True
            super().requestDone(request)
            if not self._ending:
                self.setTimeout(IDLE_S)
        if not self._acting:
            self.site.awaited.setdefault(self)

    def refuse(self, status: HTTPStatus) -> None:
        """A request that is not to be taken."""
        told = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        self._tcp.write(told.encode())
        self.loseConnection()

    def loseConnection(self) -> None:
        """As RFC 9112 has it (9.6): to close at once would discard what the client has not read yet."""
        self._ending = True
        self._acting = False
        self.clearLineBuffer()
        self._tcp.unregisterProducer()
        self._tcp.loseWriteConnection()
        self._tcp.resumeProducing()
        self.setTimeout(LINGER_S)
        self.site.awaited.setdefault(self)


class AdminSite(server.Site):
    """Serves `root` to whoever calls us by an address, or by one of our `names`."""

    noisy = False
    protocol = Channel  # type: ignore[assignment] # Twisted's own would also speak HTTP/2
    requestFactory = Request

    def __init__(
        self,
        root: IResource,
        clock: IReactorTime,
        work: WorkQueue,
        names: Collection[str] = (),
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        super().__init__(root, timeout=REQUEST_S, reactor=clock)
        self.work = work
        self._names = frozenset(name.lower().removesuffix(".") for name in names)
        self._connections_max = connections_max
        self.connections: set[Channel] = set()
        self.awaited: dict[Channel, None] = {}
        """Those that have something to send or to read, since when the longest first."""

    def startFactory(self) -> None:
        """There is no access log, nor its clock."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self.connections) >= self._connections_max:
            if not self.awaited:
                return None
            next(iter(self.awaited)).abort()
        return super().buildProtocol(addr)

    def getResourceFor(self, request: Request) -> Any:
        request.responseHeaders.removeHeader("server")  # which tells Twisted's version
        request.setHeader("cache-control", "no-store")
        request.setHeader("x-content-type-options", "nosniff")
        if not permitted(request.requestHeaders, self._names):
            return forbidden()
        return super().getResourceFor(request)

    def stop(self) -> None:
        """End all connections."""
        for channel in list(self.connections):
            channel.abort()
