"""The operators' HTTP server: for a few programs that watch, and harmless whoever else connects.

Small on purpose, where Twisted's own takes in pipelined requests, bodies and unread answers as fast as they come: a
connection has one request at a time, of which no more than its head is read, and one piece of its answer. Reading,
rendering and writing are done piece by piece in `Turns`, for all connections together.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, cast

import attrs
from twisted.internet import tcp
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, IPullProducer, IReactorTime
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.admin.access import permitted
from rproxy.admin.requests import Refused, Request, head_end, parse
from rproxy.admin.snapshots import Snapshot, Snapshots
from rproxy.monitoring.turns import Turns
from rproxy.pool.backend import Address

CONNECTIONS_MAX: Final = 64
"""Beyond them the one makes room that has kept us waiting longest; if none does, the new one is closed."""
REQUEST_S: Final = 10.0
"""In which a request must have come: the first one since the connection was opened, others since their first byte."""
IDLE_S: Final = 75.0
"""For which a connection may stay open without a further one."""
ANSWER_S: Final = 60.0
"""In which its answer must have been read."""
LINGER_S: Final = 1.0
"""How long a client has to read the last answer before a connection is aborted of which there is more unread."""
LINGER_BYTES: Final = 65536
READ_BYTES: Final = 8192
"""Read at once."""
UNREAD_BYTES: Final = 65536
"""Of an answer that the kernel may keep for each client; it counts twice as many."""
OUTDATED_BYTES: Final = 32 << 20
"""Of older snapshots that are still being sent: beyond them, who reads the oldest one is cut off."""
BACKLOG: Final = 64
METHODS: Final = (b"GET", b"HEAD")


@attrs.frozen
class Page:
    """What there is at a path."""

    content_type: str
    snapshots: Snapshots


@implementer(IPullProducer)
class Connection(Protocol):
    """One client. Its `transport` is a TCP transport of Twisted's."""

    def __init__(self, server: AdminServer) -> None:
        self._server = server
        self._received = b""
        self._searched = 0
        """Of these bytes: there is no end of a head in them."""
        self._pieces: Iterator[bytes] = iter(())
        """What is left of the answer."""
        self._persistent = True
        self._served = False
        """Whether a request has been answered."""
        self._ending = False
        self._discarded = 0
        self._gone = False
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._tcp = cast(Any, self.transport)
        self._tcp.setTcpNoDelay(True)
        self._tcp.bufferSize = READ_BYTES
        self._tcp.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
        self._await_request()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave()

    def abort(self) -> None:
        """End it now, whatever has not been read."""
        self._leave()
        self._tcp.abortConnection()

    def _limit(self, seconds: float | None, *, idle: bool = False) -> None:
        """End it if it takes longer until the next limit is set: abort it, unless it is idle."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        end = self._close if idle else self.abort
        self._timer = None if seconds is None else self._server.clock.callLater(seconds, end)

    def _close(self) -> None:
        self._leave()
        self._tcp.loseConnection()

    def _leave(self) -> None:
        self._gone = True
        self._limit(None)
        self._received, self._pieces = b"", iter(())
        self._server.left(self)

    def _await_request(self) -> None:
        """Read on; or first look at what has come after the last request already."""
        self._server.awaits(self)
        self._limit(IDLE_S if self._served else REQUEST_S, idle=True)
        if self._received:
            self._server.turns.add(self._look)
        else:
            self._tcp.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self._tcp.pauseProducing()
            return
        self._received += data
        self._tcp.pauseProducing()
        self._server.turns.add(self._look)

    def _look(self) -> None:
        """At what has been received. Nothing more is read before."""
        if self._gone:
            return
        self._received = self._received.lstrip(b"\r\n")
        try:
            end = head_end(self._received, self._searched)
            if not end:
                if self._received and not self._searched:
                    self._limit(REQUEST_S)
                self._searched = len(self._received)
                self._tcp.resumeProducing()
                return
            head, self._received, self._searched = self._received[:end], self._received[end:], 0
            self._take(parse(head))
        except Refused as refusal:
            self._received = b""
            self._persistent = False
            self._refuse(refusal.status)

    def _take(self, request: Request) -> None:
        server = self._server
        self._persistent = request.persistent
        if not permitted(request, server.names):
            self._refuse(HTTPStatus.FORBIDDEN, request)
            return
        page = server.pages.get(request.path)
        if page is None:
            self._refuse(HTTPStatus.NOT_FOUND, request)
        elif request.method not in METHODS:
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, request, allow=b", ".join(METHODS).decode())
        else:
            self._limit(None)
            server.acts(self)
            page.snapshots.ask(lambda snapshot: self._answer(request, page.content_type, snapshot))

    def _refuse(self, status: HTTPStatus, request: Request | None = None, **fields: str) -> None:
        body = f"{status.value} {status.phrase}\n".encode()
        self._send(request, status, "text/plain; charset=utf-8", Snapshot((body,)), **fields)

    def _answer(self, request: Request, content_type: str, snapshot: Snapshot | None) -> None:
        if self._gone:
            return
        if snapshot is None:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, request)
        else:
            self._send(request, HTTPStatus.OK, content_type, snapshot)

    def _send(
        self, request: Request | None, status: HTTPStatus, content_type: str, body: Snapshot, **fields: str
    ) -> None:
        fields |= {"content-type": content_type, "content-length": str(body.size)}
        if not self._persistent:
            fields["connection"] = "close"
        elif request is not None and request.is_old:
            fields["connection"] = "keep-alive"
        head_alone = request is not None and request.method == b"HEAD"
        self._pieces = iter((_head(status, fields), *(() if head_alone else body.pieces)))
        self._limit(ANSWER_S)
        self._server.sends(body, self)
        self._tcp.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """All that was written has left."""
        self._server.acts(self)
        self._server.turns.add(self._write)

    def stopProducing(self) -> None:
        """The transport is gone."""

    def _write(self) -> None:
        if self._gone:
            return
        piece = next(self._pieces, None)
        if piece is not None:
            self._tcp.write(piece)
            self._server.awaits(self)
            return
        self._tcp.unregisterProducer()
        self._server.sent(self)
        self._served = True
        if self._persistent:
            self._await_request()
        else:
            self._end()

    def _end(self) -> None:
        """As RFC 9112 has it (9.6): to close at once would discard what the client has not read yet."""
        self._ending = True
        self._server.awaits(self)
        self._limit(LINGER_S)
        self._tcp.loseWriteConnection()
        self._tcp.resumeProducing()


class AdminServer(ServerFactory):
    """Serves `pages`, by path, to whoever calls us by an address, or by one of our `names`."""

    noisy = False

    def __init__(
        self, clock: IReactorTime, turns: Turns, pages: Mapping[bytes, Page], names: Collection[str] = ()
    ) -> None:
        self.clock = clock
        self.turns = turns
        self.pages = pages
        self.names = frozenset(name.lower().removesuffix(".") for name in names)
        self._connections: set[Connection] = set()
        self._awaited: OrderedDict[Connection, None] = OrderedDict()
        """Those that have something to send or to read, since when the longest first."""
        self._sending: OrderedDict[Snapshot, set[Connection]] = OrderedDict()
        """Answers, the oldest first, and to whom."""

    def buildProtocol(self, addr: IAddress | None) -> Connection | None:
        if len(self._connections) >= CONNECTIONS_MAX:
            if not self._awaited:
                return None
            next(iter(self._awaited)).abort()
        connection = Connection(self)
        connection.factory = self
        self._connections.add(connection)
        return connection

    def awaits(self, connection: Connection) -> None:
        """It is for the client to go on."""
        self._awaited.setdefault(connection)

    def acts(self, connection: Connection) -> None:
        """It is for us to go on."""
        self._awaited.pop(connection, None)

    def sends(self, answer: Snapshot, connection: Connection) -> None:
        self._sending.setdefault(answer, set()).add(connection)
        while sum(each.size for each in self._sending) - answer.size > OUTDATED_BYTES:
            for reading in list(next(iter(self._sending.values()))):
                reading.abort()

    def sent(self, connection: Connection) -> None:
        for answer, connections in list(self._sending.items()):
            connections.discard(connection)
            if not connections:
                del self._sending[answer]

    def left(self, connection: Connection) -> None:
        self.acts(connection)
        self.sent(connection)
        self._connections.discard(connection)

    def stop(self) -> None:
        """End all connections."""
        for connection in list(self._connections):
            connection.abort()


class _PatientPort(tcp.Port):
    """Accepts one client in a turn of the reactor; Twisted's own accepts a hundred and more."""

    def doRead(self) -> None:
        self.numberAccepts = 1
        super().doRead()


def listen(reactor: Any, address: Address, server: AdminServer) -> IListeningPort:
    """Raises what `reactor.listenTCP` raises."""
    host, port = address
    if not isinstance(reactor, PosixReactorBase):
        opened: IListeningPort = reactor.listenTCP(port, server, BACKLOG, host)
        return opened
    patient = _PatientPort(port, server, BACKLOG, host, reactor)
    patient.startListening()
    return patient


def _head(status: HTTPStatus, fields: Mapping[str, str]) -> bytes:
    """Of an answer."""
    told = {"date": formatdate(usegmt=True), "cache-control": "no-store", "x-content-type-options": "nosniff", **fields}
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{name.title()}: {text}" for name, text in told.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()
