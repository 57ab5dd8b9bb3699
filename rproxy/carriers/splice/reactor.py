"""The Linux carrier: one edge-triggered epoll, nested in the reactor as a single reader, serves every session.

Listening ports are Twisted's: bound, inherited and closed by it, but read here.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from time import sleep
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReadDescriptor, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carriers.portable.carrier import PortableCarrier
from rproxy.carriers.splice.accept import takeable
from rproxy.carriers.splice.dispatch import SplicedSessions
from rproxy.carriers.splice.pipes import Pipes
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session

BATCH: Final = 256
"""Events taken at once."""
ROUNDS: Final = 8
"""Batches before the reactor has its turn, unless there is nothing more to do, or something heeded."""
LINGER_S: Final = 0.001
"""How long to wait for the next batch: a wait here costs less than one through the reactor."""
FEW: Final = 2
NAP_S: Final = 0.0003
"""Bulk that is left alone for so long, where there is little else to do, comes in larger pieces and fewer wake-ups."""
TICK_S: Final = 0.1


@implementer(IReadDescriptor)
class SpliceCarrier:
    """A `Carrier` for plain sockets on Linux; what it cannot carry a portable one does, or, `strict`, nobody."""

    def __init__(
        self, reactor: Any, service: Service, portable: PortableCarrier, pipes: Pipes, *, strict: bool = False
    ) -> None:
        self._reactor = reactor
        self._service = service
        self._portable = portable
        self._strict = strict
        self._pipes = pipes
        self._epoll = select.epoll()
        self._sessions = SplicedSessions(self._epoll, service, portable.capacity, pipes, self._wake)
        self._timer: IDelayedCall | None = None
        self._rounds = ROUNDS
        self._watched = False
        self._stopped = False

    def serve(self, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        return self._portable.serve(endpoint).addCallback(self._take_over)

    def _take_over(self, port: IListeningPort) -> IListeningPort:
        sock = takeable(port, self._portable.factory)
        if self._stopped:
            port.stopListening()
            return port
        if sock is None and self._strict:
            port.stopListening()
            raise ValueError("the splice carrier takes plain sockets only; --carrier auto takes this one, too")
        if sock is None:
            return port
        self._portable.ports.remove(port)
        port.stopReading()  # type: ignore[attr-defined]
        self._sessions.listen(sock)
        if not self._watched:
            self._watched = True
            self._reactor.addReader(self)
        return port

    def heed(self, descriptor: int) -> None:
        if not self._stopped:
            self._rounds = ROUNDS
            self._sessions.heed(descriptor)

    def ignore(self, descriptor: int) -> None:
        if not self._stopped:
            self._rounds = 1  # the reactor has a timer for when it is to be heeded again
            self._sessions.ignore(descriptor)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "splice"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of the epoll, which `abort` closes."""

    def doRead(self) -> None:
        poll, sessions = self._epoll.poll, self._sessions
        wait_s = 0.0
        for _ in range(self._rounds):
            events = poll(wait_s, BATCH)
            if not events:
                return
            sessions.serve(events)
            if sessions.called:
                sessions.called = False
                return
            if sessions.take_bulk() and len(events) <= FEW:
                sleep(NAP_S)
            wait_s = LINGER_S

    def _wake(self) -> None:
        """Have a tick soon."""
        if self._timer is None:
            self._timer = self._reactor.callLater(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            again = self._sessions.tick(self._service.seconds())
        except Exception:
            self._wake()
            raise
        if again:
            self._wake()

    def slices(self) -> Iterator[list[Session]]:
        for legs in self._sessions.slices():
            yield [leg.session for leg in legs if leg.session.is_connected]
        yield from self._portable.slices()

    def abort(self) -> None:
        self._portable.abort()
        for legs in self._sessions.slices():
            for leg in legs:
                self._sessions.end(leg, Ending.STOPPED)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watched:
            self._watched = False
            self._reactor.removeReader(self)
        self._stopped = True
        self._pipes.close()
        self._epoll.close()
