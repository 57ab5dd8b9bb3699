"""The operators' HTTP server: Twisted's, with limits on work in one turn of the reactor, on memory and on time.

Requests are read, and answers rendered and written, piece by piece in a `WorkQueue` that all connections share. A
connection has one request at a time; the next one is read when the kernel has taken the whole answer.
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

from rproxy.admin.request_filter import is_permitted
from rproxy.timing.work_queue import WorkQueue

CONNECTIONS_MAX: Final = 64
"""Beyond it, the connection that has been idle or slow for longest is closed; if there is none, the new one is."""
REQUEST_S: Final = 10.0
"""From the first byte of a request to its last one, and from the accept to the first byte."""
IDLE_S: Final = 75.0
"""Between two requests of a connection."""
ANSWER_S: Final = 60.0
"""From a complete request until the client has read the answer."""
LINGER_S: Final = 10.0
"""From the end of the last answer until the client closes; then the connection is aborted."""
LINGER_BYTES: Final = 1 << 20
"""Most bytes that it may still send meanwhile."""
READ_BYTES: Final = 2048
"""Bytes read and parsed at once."""
TARGET_MAX: Final = 1024
"""Most bytes of a request target."""
BODY_MAX: Final = 0
"""Most bytes of a request body. One of unknown length is always too long."""
UNREAD_BYTES: Final = 65536
"""SO_SNDBUF of each connection; the kernel doubles it."""
BACKLOG: Final = 16
"""Of listen(2). Small, because all of them are accepted in one turn of the reactor."""


class Request(server.Request):
    """A request without body or cookies."""

    channel: Any = None
    """The `Channel` that it came on; None once the connection is lost or the answer is complete."""

    def gotLength(self, length: int | None) -> None:
        if length is not None and length <= BODY_MAX:
            super().gotLength(length)
            return
        self.requestHeaders.removeHeader(b"expect")  # else Twisted answers 100 Continue
        self.channel.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def parseCookies(self) -> None:
        """Does nothing: cookies are not used, and parsing thousands of them is slow."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if len(path) > TARGET_MAX:  # slow to parse as well
            self.channel.refuse(HTTPStatus.REQUEST_URI_TOO_LONG)
        else:
            super().requestReceived(command, path, version)

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.channel is not None:
            self.channel.site.awaited.setdefault(self.channel)


class Channel(HTTPChannel):
    """One client's connection; its `transport` is Twisted's TCP transport."""

    site: AdminSite
    maxHeaders = 100

    def __init__(self) -> None:
        super().__init__()
        self._acting = False
        """Whether a request is being answered: from its last byte until the kernel has taken the answer."""
        self._answered: Request | None = None
        """The request whose whole answer is written, but not yet taken by the kernel."""
        self._idle = True
        """Whether no byte of a request has come since the last answer."""
        self._ending = False
        self._discarded = 0
        self._gone = False

    def connectionMade(self) -> None:
        self._tcp = cast(Any, self.transport)
        self._tcp.bufferSize = READ_BYTES
        self._tcp.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
        self.site.connections.add(self)
        super().connectionMade()
        # A pull producer is resumed whenever all that was written has left; a push producer only after much was.
        self._tcp.unregisterProducer()
        self._tcp.registerProducer(self, False)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave()
        super().connectionLost(reason)

    def abort(self) -> None:
        """Close the connection now; what has not been sent is lost."""
        self._leave()
        self._tcp.abortConnection()

    def _leave(self) -> None:
        self._gone = True
        self.setTimeout(None)
        self.site.connections.discard(self)
        self.site.awaited.pop(self, None)

    def resetTimeout(self) -> None:
        """Does nothing, although called for all data: a request that arrives slowly gets no more time."""

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
        """Parse what has been received. Reading is paused until then."""
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
        except ValueError:  # Twisted lets int() raise for a Content-Length of too many digits
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
        """The whole answer is written, but the kernel may not have taken it."""
        self._answered = request
        self._tcp.startWriting()

    def resumeProducing(self) -> None:
        """The kernel has taken all that was written."""
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
        """Answer with an error status, and close the connection."""
        answer = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        self._tcp.write(answer.encode())
        self.loseConnection()

    def loseConnection(self) -> None:
        """End the stream and wait for the client to close: closing at once could lose the answer (RFC 9112, 9.6)."""
        self._ending = True
        self._acting = False
        self.clearLineBuffer()
        self._tcp.unregisterProducer()
        self._tcp.loseWriteConnection()
        self._tcp.resumeProducing()
        self.setTimeout(LINGER_S)
        self.site.awaited.setdefault(self)


class AdminSite(server.Site):
    """Serves `root` under this host's addresses and the given `names`."""

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
        """Connections that wait for their client, the longest first."""

    def startFactory(self) -> None:
        """Twisted's would start the clock of its access log."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self.connections) >= self._connections_max:
            if not self.awaited:
                return None
            next(iter(self.awaited)).abort()
        return super().buildProtocol(addr)

    def getResourceFor(self, request: Request) -> Any:
        request.responseHeaders.removeHeader("server")  # would reveal Twisted's version
        request.setHeader("cache-control", "no-store")
        request.setHeader("x-content-type-options", "nosniff")
        if not is_permitted(request.requestHeaders, self._names):
            return forbidden()
        return super().getResourceFor(request)

    def stop(self) -> None:
        """Abort all connections."""
        for channel in list(self.connections):
            channel.abort()
