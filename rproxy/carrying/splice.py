"""The Linux carrier: one edge-triggered epoll, nested in the reactor as a single reader, serves every session.

Per connection it makes about as many system calls as a proxy in C: both sockets are registered once, for everything,
and never again; a short read needs no second one to see that nothing is left; data and the end of stream that is
known to follow leave in one packet. Listening ports are Twisted's: bound, inherited and closed by it, and read here.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Iterator
from errno import EINPROGRESS, ETIMEDOUT
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    SHUT_WR,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_LINGER,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_QUICKACK,
    SocketType,
)
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReadDescriptor, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carrying.legs import (
    BROKEN,
    CLIENT,
    CLOSED,
    CONNECTING,
    DEAF,
    DYING,
    EOF,
    EVENTS,
    HEEDED,
    HUNG_UP,
    INLINE,
    LISTENING,
    MORE,
    NAGLE,
    NOW,
    PLAIN,
    READABLE,
    SHUT,
    SIZE,
    STALLED,
    WROTE,
    Leg,
    Mover,
)
from rproxy.carrying.listeners import Listener, Listeners, takeable
from rproxy.carrying.pipes import Pipes
from rproxy.carrying.portable import PortableCarrier
from rproxy.carrying.session import (
    FLUSH_BACKEND_S,
    FLUSH_CLIENT_S,
    LOCAL_ERRORS,
    Balancer,
    Ending,
    Session,
)
from rproxy.carrying.sockets import unsent

BATCH: Final = 256
"""Events taken at once."""
ROUNDS: Final = 8
"""Batches before the reactor has its turn, unless there is nothing more to do, or something heeded."""
LINGER_S: Final = 0.001
"""How long to wait for the next batch: a wait here costs less than one through the reactor."""
TICK_S: Final = 0.1

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_PRI: Final = select.EPOLLPRI
_ERROR: Final = select.EPOLLERR
_HUP: Final = select.EPOLLHUP
_RDHUP: Final = select.EPOLLRDHUP
_ARRIVED: Final = _IN | _PRI | _RDHUP | _HUP | _ERROR
_RARE_EVENTS: Final = _PRI | _ERROR
_RARE: Final = ~(CLIENT | NAGLE | WROTE | SHUT | HUNG_UP | INLINE)
_NONBLOCKING: Final = SOCK_STREAM | SOCK_NONBLOCK
_RESET: Final = struct.pack("ii", 1, 0)


@attrs.frozen
class _Other:
    """Stands for a descriptor that is no session's: one just closed, of which there may be events yet, or a `heed`ed."""

    state: int


_GONE: Final = _Other(CLOSED)
_HEEDED: Final = _Other(HEEDED)


@implementer(IReadDescriptor)
class SpliceCarrier:
    """A `Carrier` for plain sockets on Linux; what it cannot carry a portable one does, or, `strict`, nobody."""

    log = Logger()

    def __init__(
        self, reactor: Any, balancer: Balancer, portable: PortableCarrier, pipes: Pipes, *, strict: bool = False
    ) -> None:
        self._reactor = reactor
        self._balancer = balancer
        self._portable = portable
        self._strict = strict
        self._room = portable.room
        self._pipes = pipes
        self._epoll = select.epoll()
        self._register = self._epoll.register
        self._mover = Mover(self._epoll, pipes, finished=self._finished, lost=self._lost, stuck=self._stuck)
        self._legs: list[Leg | Listener | _Other] = [_GONE] * 64
        self._closing: list[SocketType] = []
        """Closed after the batch of events: before, a new socket could get the number of one with events to come."""
        self._young: dict[Leg, float] = {}
        """The back-end legs of the last tick and those on the way, with the deadlines of their connects."""
        self._doomed: dict[Leg, float] = {}
        """Legs to be reset once they have what was read for them, and their deadlines."""
        self._listeners = Listeners(self._epoll, self._room, opened=self._open, wake=self._wake)
        self._timer: IDelayedCall | None = None
        self._watched = False
        self._stopped = False
        self._called = False
        self._events: list[tuple[int, int]] = []
        self._at = 0
        """The descriptor whose event is handled."""

    def serve(self, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        return self._portable.serve(endpoint).addCallback(self._take_over)

    def _take_over(self, port: IListeningPort) -> IListeningPort:
        sock = takeable(port, self._portable.factory)
        if self._stopped or (sock is None and self._strict):
            port.stopListening()
            raise ValueError("the splice carrier takes plain sockets only; --carrier auto takes this one, too")
        if sock is None:
            return port
        port.stopReading()  # type: ignore[attr-defined]
        listener = self._listeners.add(sock)
        self._put(sock.fileno(), listener)
        self._register(sock.fileno(), listener.events)
        if not self._watched:
            self._watched = True
            self._reactor.addReader(self)
        return port

    def heed(self, descriptor: int) -> None:
        self._put(descriptor, _HEEDED)
        self._register(descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "splice"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of the epoll, which `abort` closes."""

    def doRead(self) -> None:
        poll = self._epoll.poll
        wait_s = 0.0
        for _ in range(ROUNDS):
            events = self._events = poll(wait_s, BATCH)
            if not events:
                return
            wait_s = LINGER_S
            remaining = iter(events)
            while True:
                try:
                    self._serve(remaining)
                    break
                except Exception:
                    self.log.failure("an event's session failed")
                    self._fail()
            if self._closing:
                self._close_sockets()
            if self._called:
                self._called = False
                return

    def _fail(self) -> None:
        leg = self._legs[self._at]
        if isinstance(leg, Leg):
            self._end(leg, Ending.STOPPED, reset=True)

    def _serve(self, remaining: Iterator[tuple[int, int]]) -> None:
        """Handle events.

        What nearly all of them ask for, to move a little data and perhaps the end of stream behind it, is written out
        here for speed; everything else, and the same in every other state, is the mover's.
        """
        legs: list[Any] = self._legs
        mover, ready = self._mover, self._ready
        buffer, view = mover.buffer, mover.view
        for descriptor, event in remaining:
            leg = legs[descriptor]
            state = leg.state
            if state & _RARE or event & _RARE_EVENTS:
                self._at = descriptor
                ready(leg, event)
                continue
            if not event & _IN:
                continue
            peer = leg.peer
            if peer.state & DEAF:
                leg.state = state | (READABLE | HUNG_UP if event & _RDHUP else READABLE)
                continue
            try:
                size = leg.sock.recv_into(buffer, SIZE, NOW)
            except BlockingIOError:
                continue
            except OSError:  # told but once: another recv would find the end of the stream
                leg.state |= BROKEN
                ready(leg, event)
                continue
            if size:
                leg.count += size
                if peer.state & NAGLE:
                    mover.settle(peer, size)
                last = event & _RDHUP and size < SIZE
                try:
                    sent = peer.sock.send(view[:size], MORE if last else NOW)
                except OSError:
                    sent = 0
                if sent < size:
                    mover.write_later(peer, sent, size)
                    if last:
                        mover.end_of_stream(leg)
                        continue
                if not last:
                    if size == SIZE:
                        ready(leg, event)
                    continue
            if peer.state & EOF:
                self._finished(leg)
                continue
            leg.state = state | EOF
            peer.state |= SHUT
            leg.session.half_close()
            try:  # noqa: SIM105 - faster than a context manager
                peer.sock.shutdown(SHUT_WR)
            except OSError:  # reset: an event tells
                pass

    def _ready(self, leg: Any, event: int) -> None:
        """Handle any event."""
        state = leg.state
        if state & CONNECTING:
            self._connected(leg, event)
            return
        if state & (LISTENING | CLOSED | HEEDED):
            if state & LISTENING:
                self._listeners.accept(leg)
            elif state & HEEDED:
                self._called = True
            return
        if event & _ARRIVED and not (state & EOF and not event & _ERROR):
            state |= READABLE
            if event & _RDHUP:
                state |= HUNG_UP
            if event & _PRI:
                state |= PLAIN
            if event & _ERROR:
                state |= BROKEN
            leg.state = state
        if state & STALLED and event & _OUT and not state & BROKEN:
            self._mover.flush(leg)
        if leg.state & READABLE:
            self._mover.pump(leg)
        if event & _ERROR and not leg.state & CLOSED:
            self._broken(leg)

    def _open(self, family: int, descriptor: int) -> None:
        """A client has been accepted."""
        session = self._balancer.open(None)
        client = Leg(SocketType(family, SOCK_STREAM, 0, descriptor), session, CLIENT, None)
        session.client = client
        self._room.sessions += 1
        self._put(descriptor, client)
        self._register(descriptor, EVENTS)
        self._connect(client)

    def _put(self, descriptor: int, what: Leg | Listener | _Other) -> None:
        """Let events of the descriptor come to `what`."""
        try:
            self._legs[descriptor] = what
        except IndexError:
            self._legs.extend([_GONE] * (descriptor + 1))
            self._legs[descriptor] = what

    def _connect(self, client: Leg) -> None:
        """Start to connect to the session's next back-end, or let the client go."""
        session = client.session
        while (backend := session.next()) is not None:
            address = backend.address
            try:
                sock = SocketType(AF_INET6 if ":" in address else AF_INET, _NONBLOCKING, 0)
            except OSError as failure:
                session.failed(blame=failure.errno not in LOCAL_ERRORS)
                continue
            sock.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 0)  # the handshake's last ACK waits for first data
            error = sock.connect_ex((address, backend.port))
            if error and error != EINPROGRESS:
                self._closing.append(sock)
                session.failed(blame=error not in LOCAL_ERRORS)
                continue
            leg = client.peer = Leg(sock, session, CONNECTING | NAGLE, client)
            descriptor = sock.fileno()
            self._put(descriptor, leg)
            self._register(descriptor, EVENTS)
            self._young[leg] = session.connect_by()
            if self._timer is None:
                self._wake()
            return
        session.give_up()
        self._close(client)

    def _connected(self, leg: Leg, event: int) -> None:
        """Something has become of a connect."""
        if event & (_ERROR | _HUP):
            self._connect_failed(leg, leg.sock.getsockopt(SOL_SOCKET, SO_ERROR))
        elif event & _OUT:
            leg.state = NAGLE
            leg.session.connected()
            client = leg.peer
            assert client is not None
            if client.state & READABLE:  # as if it had come but now
                client.state &= ~READABLE
                self._events.append((client.sock.fileno(), _IN | _RDHUP if client.state & HUNG_UP else _IN))
            else:  # a server that is to speak first must not wait for that ACK
                leg.sock.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 1)
            if event & _IN:
                self._ready(leg, event)

    def _connect_failed(self, leg: Leg, error: int) -> None:
        client = leg.peer
        assert client is not None
        client.peer = None
        self._forget(leg)
        client.session.failed(blame=error not in LOCAL_ERRORS)
        self._connect(client)

    def _finished(self, leg: Leg) -> None:
        """Both streams have ended, and nothing is left to be written."""
        session = leg.session
        peer: Any = leg.peer
        if leg.state & CLIENT:
            session.up, session.down = leg.count, peer.count
        else:
            session.up, session.down = peer.count, leg.count
        session.ended(Ending.CLOSED)
        sock, other = leg.sock, peer.sock
        self._legs[sock.fileno()] = self._legs[other.fileno()] = _GONE
        self._closing += (sock, other)
        leg.state = peer.state = CLOSED
        leg.peer = session.client = None  # opens the circles
        self._room.leave()

    def _end(self, leg: Leg, ending: Ending, *, reset: bool) -> None:
        """End a leg's session; both sides at once."""
        self._account(leg, ending)
        peer = leg.peer
        if peer is not None:
            if reset:
                self._reset(peer)
            self._forget(peer)
        if reset:
            self._reset(leg)
        self._close(leg)

    def _account(self, leg: Leg, ending: Ending) -> None:
        session, peer = leg.session, leg.peer
        if peer is not None:
            client, backend = (leg, peer) if leg.state & CLIENT else (peer, leg)
            session.up, session.down = client.count, backend.count
        session.ended(ending)

    def _reset(self, leg: Leg) -> None:
        leg.sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)

    def _close(self, leg: Leg) -> None:
        """The last of a session's legs."""
        self._forget(leg)
        self._room.leave()

    def _forget(self, leg: Leg) -> None:
        """Close a leg, and break its references, which are circles."""
        self._legs[leg.sock.fileno()] = _GONE
        self._closing.append(leg.sock)
        if leg.state & STALLED:
            self._mover.drop(leg)
        if self._doomed:
            self._doomed.pop(leg, None)
        leg.state = CLOSED
        leg.peer = leg.session.client = None

    def _close_sockets(self) -> None:
        for sock in self._closing:
            sock.close()
        self._closing.clear()

    def _broken(self, leg: Leg) -> None:
        """A connection is dead, but its peer has not taken all that had arrived."""
        if leg.peer is None or leg.peer.state & CONNECTING:
            self._lost(leg)
        else:
            self._stuck(leg)

    def _stuck(self, leg: Leg) -> None:
        assert leg.peer is not None
        self._doom(leg.peer)

    def _doom(self, leg: Leg) -> None:
        grace_s = FLUSH_CLIENT_S if leg.state & CLIENT else FLUSH_BACKEND_S
        self._doomed.setdefault(leg, self._balancer.seconds() + grace_s)
        self._wake()

    def _lost(self, leg: Leg) -> None:
        """A connection is dead, and all that came from it is written or in a doomed peer's hands."""
        session, peer = leg.session, leg.peer
        if peer is None:
            if session.ended_as is None:
                session.ended(Ending.CLIENT_GONE)
            self._close(leg)
            return
        if peer.state & CONNECTING:
            self._end(leg, Ending.CLIENT_GONE, reset=False)
            return
        self._account(leg, Ending.CLIENT_RESET if leg.state & CLIENT else Ending.BACKEND_RESET)
        self._forget(leg)
        peer.peer = None
        peer.state |= DYING
        self._doom(peer)
        self._reset_if_flushed(peer)

    def _reset_if_flushed(self, leg: Leg) -> None:
        if leg.peer is None and not leg.state & STALLED and (leg.state & BROKEN or not unsent(leg.sock)):
            self._reset(leg)
            self._close(leg)

    def _wake(self) -> None:
        """Have a tick soon."""
        if self._timer is None:
            self._timer = self._reactor.callLater(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._balancer.seconds()
        young, self._young = self._young, {}
        for leg, deadline in young.items():
            if not leg.state & CLOSED:
                self._grow(leg, deadline, now)
        for leg, deadline in list(self._doomed.items()):
            if deadline > now:
                self._reset_if_flushed(leg)
            elif leg.peer is None:
                self._reset(leg)
                self._close(leg)
            else:
                ending = Ending.BACKEND_RESET if leg.state & CLIENT else Ending.CLIENT_RESET
                self._end(leg, ending, reset=True)
        self._listeners.resume_if_room()
        if self._closing:
            self._close_sockets()
        if self._young or self._doomed or self._listeners.paused:
            self._wake()

    def _grow(self, leg: Leg, deadline: float, now: float) -> None:
        """What most sessions do not live to see."""
        if not leg.state & CONNECTING:
            leg.sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        elif deadline > now:
            self._young[leg] = deadline
        else:
            self._connect_failed(leg, ETIMEDOUT)

    def connected(self) -> Iterator[Session]:
        for leg in self._legs:
            if isinstance(leg, Leg) and leg.state & CLIENT and leg.session.is_connected:
                yield leg.session
        yield from self._portable.connected()

    def carried(self, session: Session) -> int:
        leg = session.client
        if not isinstance(leg, Leg):
            return self._portable.carried(session)
        return leg.count + (0 if leg.peer is None else leg.peer.count)

    def unsent(self, session: Session) -> int:
        leg = session.client
        if not isinstance(leg, Leg):
            return self._portable.unsent(session)
        return sum(unsent(side.sock) for side in (leg, leg.peer) if side is not None)

    def cut(self, session: Session, ending: Ending) -> None:
        leg = session.client
        if isinstance(leg, Leg):
            self._end(leg, ending, reset=True)
            self._close_sockets()
        else:
            self._portable.cut(session, ending)

    def abort(self) -> None:
        self._portable.abort()
        for leg in self._legs:
            if isinstance(leg, Leg) and not leg.state & CLOSED:
                self._end(leg, Ending.STOPPED, reset=True)
        self._close_sockets()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watched:
            self._watched = False
            self._reactor.removeReader(self)
        self._stopped = True
        self._pipes.close()
        self._epoll.close()
