"""The connections of the operators' HTTP server: Twisted's, with limits on work at once, on memory and on time."""

from __future__ import annotations

import os
import re
import socket
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel

from rproxy.net.peer_credentials import peer_uid
from rproxy.net.tcp_options import limit_unacknowledged
from rproxy.timing.work_queue import WorkQueue

REQUEST_S: Final = 10.0
"""From the first byte of a request to its last one, and from the accept to the first byte."""
IDLE_S: Final = 75.0
"""Between two requests of a connection."""
ANSWER_S: Final = 60.0
"""From a complete request until the client has read the answer, unless that is an endless one."""
LINGER_S: Final = 10.0
"""From the end of the last answer until the client closes; then the connection is aborted."""
LINGER_BYTES: Final = 1 << 20
"""Most bytes that it may still send meanwhile."""
VANISHED_S: Final = 30.0
"""A client that acknowledges nothing for so long, of an endless answer, is taken to be gone."""
READ_BYTES: Final = 2048
"""Bytes read and parsed at once."""
TARGET_MAX: Final = 1024
"""Most bytes of a request target."""
BODY_MAX: Final = 1024
"""Most bytes of a request body, which is ignored. One of unknown length is always too long."""
ASTERISK: Final = b"*"
"""The target of a request that is about the server itself (RFC 9112, 3.2.4)."""
UNREAD_BYTES: Final = 65536
"""SO_SNDBUF of each connection; the kernel doubles it."""
_ABSOLUTE: Final = re.compile(rb"(?i)https?://(?P<authority>[^/?#]*)/?")
"""A target with a host, which counts rather than `Host` (RFC 9112, 3.2.2); some HTTP proxies send it."""
_TARGET: Final = re.compile(rb"[!-~]+")
_VERSIONS: Final = {b"HTTP/1.0", b"HTTP/1.1"}


class Request(server.Request):
    """A request whose body and cookies are ignored."""

    _failures = Logger()
    channel: Any = None
    """The `Channel` that it came on; None once the connection is lost or the answer is complete."""

    def gotLength(self, length: int | None) -> None:
        if length is not None and length <= BODY_MAX:
            super().gotLength(length)
            return
        self.requestHeaders.removeHeader(b"expect")  # else Twisted answers 100 Continue
        self.channel.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def processingFailed(self, reason: Failure) -> Failure:
        """A fault of ours, which is logged. Twisted's answer would be a page."""
        self._failures.failure("a request of an operator could not be answered", reason)
        if self.channel is not None and not self.startedWriting:
            self.channel.refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
        elif self.channel is not None:
            self.channel.abort()
        return reason

    @property
    def has_body(self) -> bool:
        """Whether it came with a body of at least a byte."""
        return self.content is not None and self.content.seek(0, os.SEEK_END) > 0

    def parseCookies(self) -> None:
        """Does nothing: cookies are not used, and parsing thousands of them is slow."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if len(path) > TARGET_MAX:  # slow to parse as well
            self.channel.refuse(HTTPStatus.REQUEST_URI_TOO_LONG)
        elif version not in _VERSIONS or not _TARGET.fullmatch(path) or self._has_nul():
            self.channel.refuse(HTTPStatus.BAD_REQUEST)  # Twisted 24.3 takes these
        else:
            self.requestHeaders.removeHeader(b"content-type")  # else Twisted would parse the body of a form
            if absolute := _ABSOLUTE.match(path):
                self.requestHeaders.setRawHeaders(b"host", [absolute["authority"]])
                path = b"/" + path[absolute.end() :]
            super().requestReceived(command, path, version)

    def _has_nul(self) -> bool:
        """Whether a field's value has a NUL, which RFC 9110, 5.5, forbids."""
        fields = self.requestHeaders.getAllRawHeaders()
        return any(b"\0" in value for _, values in fields for value in values)

    def process(self) -> None:
        """As Twisted's, except that it does not answer what is asked of `ASTERISK` itself."""
        if self.path == ASTERISK:
            self.path = b"/" + ASTERISK
        super().process()

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.channel is not None:
            self.channel.site.awaited.setdefault(self.channel)


class Site(Protocol):
    """What the connections of a server share."""

    work: WorkQueue
    connections: set[Channel]
    awaited: dict[Channel, None]
    """Those that wait for their client, the longest first."""


class Channel(HTTPChannel):
    """One client's connection; its `transport` is Twisted's, of TCP or a Unix socket.

    It has one request at a time; the next one is read when the kernel has taken the whole answer.
    """

    site: Site
    maxHeaders = 100

    def __init__(self) -> None:
        super().__init__()
        self._acting = False
        """Whether a request is being answered: from its last byte until the kernel has taken the answer."""
        self._answered: Request | None = None
        """The request whose whole answer is written, but not yet taken by the kernel."""
        self._idle = True
        """Whether no byte of a request has come since the last answer."""
        self._endless = False
        """Whether the answer has no end. What the client sends meanwhile is discarded."""
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
        if self._ending or self._endless:
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

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted's answer would have no body."""
        self.refuse(HTTPStatus.BAD_REQUEST)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def allContentReceived(self) -> None:
        self._acting = True
        self.site.awaited.pop(self, None)
        super().allContentReceived()
        if self._endless:
            self._tcp.resumeProducing()  # to see that the client has left
        elif not self._ending:
            self.setTimeout(ANSWER_S)

    def peer_uid(self) -> int | None:
        """The user who has connected, if it was by a Unix socket; None for others."""
        return peer_uid(self._tcp.getHandle())

    def answers_endlessly(self) -> None:
        """The answer to the present request has no end: it has no time limit but those that its producer keeps.

        To be called while the request is rendered.
        """
        self._endless = True
        self.setTimeout(None)
        limit_unacknowledged(self._tcp.getHandle(), VANISHED_S)

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
        body = f'{{"error": "{status.phrase.lower()}"}}\n'
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        self._tcp.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
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
