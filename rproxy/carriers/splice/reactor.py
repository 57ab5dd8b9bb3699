"""The splice carrier, for Linux: one edge-triggered epoll serves all sessions, nested in the reactor as one reader.

Listening ports are Twisted's: opened, inherited and closed by it, but read here.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from time import sleep
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IReadDescriptor,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carriers.portable.carrier import PortableCarrier
from rproxy.carriers.splice.accept import plain_socket
from rproxy.carriers.splice.dispatch import Dispatcher
from rproxy.carriers.splice.pipes import Pipes
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session

BATCH: Final = 256
"""Most events taken from epoll at once."""
ROUNDS: Final = 8
"""Most batches before the reactor gets its turn; earlier when there are no events, or a watched descriptor is ready."""
LINGER_S: Final = 0.001
"""How long to wait for the next batch, because a return through the reactor costs more than a wait here."""
BULK_BATCH_MAX: Final = 2
"""Batches of at most this many events are mostly bulk transfers."""
BULK_PAUSE_S: Final = 0.0003
"""A pause after such a batch, in which more bulk data arrives: larger pieces, fewer wake-ups."""
TICK_S: Final = 0.1


@implementer(IReadDescriptor)
class SpliceCarrier:
    """A `Carrier` for plain sockets on Linux. `portable` serves other listeners; if `strict`, those are refused."""

    def __init__(self, reactor: Any, portable: PortableCarrier, pipes: Pipes, *, strict: bool = False) -> None:
        self._reactor = reactor
        self._portable = portable
        self._strict = strict
        self._pipes = pipes
        self._epoll = select.epoll()
        self._dispatcher = Dispatcher(self._epoll, portable.capacity, pipes, reactor.seconds, self._wake)
        self._transfer = self._dispatcher.transfer
        self._timer: IDelayedCall | None = None
        self._rounds = ROUNDS
        self._reading = False
        """Whether the reactor polls the epoll."""
        self._stopped = False

    def serve(
        self, endpoint: IStreamServerEndpoint, service: Service, name: str = "", tls: Any = None
    ) -> Deferred[IListeningPort]:
        return self._portable.listen(endpoint, service, name, tls).addCallback(self._opened, service, name)

    def _opened(self, port: IListeningPort, service: Service, name: str) -> IListeningPort:
        sock = self._socket(port, service)
        if self._stopped:
            port.stopListening()
        elif sock is not None:
            self._take(port, sock, service, name)
        elif self._strict:
            port.stopListening()
            raise ValueError("the splice carrier takes plain sockets only; --carrier auto takes this one, too")
        else:
            self._portable.read_headers(port, service)
        return port

    def _socket(self, port: IListeningPort, service: Service) -> socket.socket | None:
        """The port's socket if its clients are to be carried here: neither they nor back-ends speak TLS."""
        if service.outbound.tls is not None:
            return None
        return plain_socket(port, self._portable.client_factory(port))

    def _take(self, port: IListeningPort, sock: socket.socket, service: Service, name: str) -> None:
        """Accept the port's clients here."""
        self._portable.ports.remove(port)
        port.stopReading()  # type: ignore[attr-defined]
        self._dispatcher.listen(sock, service, name)
        if not self._reading:
            self._reading = True
            self._reactor.addReader(self)

    def reassign(self, port: IListeningPort, service: Service, name: str, tls: Any = None) -> None:
        self._portable.relisten(port, service, name, tls)
        if self._stopped:
            return
        present = getattr(port, "socket", None)
        is_here = isinstance(present, socket.socket) and self._dispatcher.forget(present)
        sock = self._socket(port, service)
        if sock is not None and is_here:
            self._dispatcher.listen(sock, service, name)
        elif sock is not None:
            self._take(port, sock, service, name)
        else:
            if is_here:
                self._portable.ports.add(port, service.capacity)
                port.startReading()  # type: ignore[attr-defined]
            self._portable.read_headers(port, service)

    def watch(self, descriptor: int) -> None:
        if not self._stopped:
            self._rounds = ROUNDS
            self._dispatcher.watch(descriptor)

    def unwatch(self, descriptor: int) -> None:
        if not self._stopped:
            self._rounds = 1  # the descriptor's owner has a timer in the reactor that must not be late
            self._dispatcher.unwatch(descriptor)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "splice"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped polling the epoll; `abort` closes it."""

    def doRead(self) -> None:
        poll, dispatcher, transfer = self._epoll.poll, self._dispatcher, self._transfer
        wait_s = 0.0
        for _ in range(self._rounds):
            events = poll(wait_s, BATCH)
            if not events:
                return
            dispatcher.serve(events)
            if dispatcher.watch_fired:
                dispatcher.watch_fired = False
                return
            if transfer.spliced:
                transfer.spliced = False
                if len(events) <= BULK_BATCH_MAX:
                    sleep(BULK_PAUSE_S)
            wait_s = LINGER_S

    def _wake(self) -> None:
        """Schedule a tick, unless one is scheduled."""
        if self._timer is None:
            self._timer = self._reactor.callLater(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            again = self._dispatcher.tick(self._reactor.seconds())
        except Exception:
            self._wake()
            raise
        if again:
            self._wake()

    def slices(self) -> Iterator[list[Session]]:
        for legs in self._dispatcher.table.slices():
            yield [leg.session for leg in legs if leg.session.ending is None]
        yield from self._portable.slices()

    def abort(self) -> None:
        self._portable.abort()
        table = self._dispatcher.table
        for legs in table.slices():
            for leg in legs:
                table.cut(leg, Ending.STOPPED)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)
        self._stopped = True
        self._pipes.close()
        self._epoll.close()
