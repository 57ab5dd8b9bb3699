"""The sessions of the splice carrier, from the accepted client to the last closed socket.

Per connection it makes about as many system calls as a proxy in C: both sockets are registered once, for everything,
and never again; a short read needs no second one to see that nothing is left; data and the end of stream that is
known to follow leave in one packet.
"""

from __future__ import annotations

import operator
import select
import socket
from collections.abc import Callable, Iterator
from errno import EINPROGRESS, ETIMEDOUT
from typing import Any, Final

from twisted.logger import Logger

from rproxy.carrying.legs import (
    BROKEN,
    CLIENT,
    CLOSED,
    CONNECTING,
    DEAF,
    DYING,
    EOF,
    EVENTS,
    GONE,
    HEEDED,
    HUNG_UP,
    LISTENING,
    MORE,
    NAGLE,
    NOW,
    PLAIN,
    RARE,
    READABLE,
    SHUT,
    SIZE,
    STALLED,
    Leg,
    Mover,
    Other,
)
from rproxy.carrying.listeners import Listener, Listeners
from rproxy.carrying.pipes import Pipes
from rproxy.carrying.room import Room
from rproxy.carrying.session import FLUSH_BACKEND_S, FLUSH_CLIENT_S, LOCAL_ERRORS, Balancer, Ending
from rproxy.carrying.sockets import unsent

_IN: Final = select.EPOLLIN
_PRI: Final = select.EPOLLPRI
_ERROR: Final = select.EPOLLERR
_RDHUP: Final = select.EPOLLRDHUP
_ARRIVED: Final = _IN | _PRI | _RDHUP | select.EPOLLHUP | _ERROR
_RARE_EVENTS: Final = _PRI | _ERROR
_NONBLOCKING: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


class SplicedSessions:
    """Every session's two legs by descriptor, and what is to become of them.

    `wake` asks for a `tick` within a moment. A deadline is kept with the precision of the ticks.
    """

    log = Logger()

    def __init__(
        self, epoll: select.epoll, balancer: Balancer, room: Room, pipes: Pipes, wake: Callable[[], None]
    ) -> None:
        self._balancer = balancer
        self._room = room
        self._wake = wake
        self._register = epoll.register
        self._mover = Mover(epoll, pipes, finished=self._finished, lost=self._lost, stuck=self._stuck)
        self._listeners = Listeners(epoll, room, opened=self._open, wake=wake)
        self._legs: list[Leg | Listener | Other] = [GONE] * 64
        self._closing: list[socket.SocketType] = []
        """Closed after the batch of events: before, a new socket could get the number of one with events to come."""
        self._young: dict[Leg, float] = {}
        """The back-end legs of the last tick and those on the way, with the deadlines of their connects."""
        self._doomed: dict[Leg, float] = {}
        """Legs to be reset once they have what was read for them, and their deadlines."""
        self._events: list[tuple[int, int]] = []
        self.called = False
        """Something heeded has become readable."""

    def listen(self, sock: socket.socket) -> None:
        listener = self._listeners.add(sock)
        self._put(sock.fileno(), listener)
        self._register(sock.fileno(), listener.events)

    def heed(self, descriptor: int) -> None:
        self._put(descriptor, Other(HEEDED))
        self._register(descriptor, select.EPOLLIN)

    def legs(self) -> Iterator[Leg]:
        """One of each session, the client's while there is one."""
        for leg in list(self._legs):
            if isinstance(leg, Leg) and leg.state & (CLIENT | DYING):
                yield leg

    def serve(self, events: list[tuple[int, int]]) -> None:
        """Handle a batch of events. An exception ends the session that it came from, and no other."""
        self._events = events
        remaining = iter(events)
        while True:
            try:
                self._serve(remaining)
                break
            except Exception:
                self.log.failure("an event's session failed")
                descriptor, _ = events[len(events) - 1 - operator.length_hint(remaining)]
                leg = self._legs[descriptor]
                if isinstance(leg, Leg):
                    self.end(leg, Ending.STOPPED, reset=True)
        if self._closing:
            self.close_sockets()

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
            if state & RARE or event & _RARE_EVENTS:
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
                peer.sock.shutdown(socket.SHUT_WR)
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
                self.called = True
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
        if state & STALLED and event & select.EPOLLOUT and not state & BROKEN:
            self._mover.flush(leg)
        if leg.state & READABLE:
            self._mover.pump(leg)
        if event & _ERROR and not leg.state & CLOSED:
            if leg.peer is None or leg.peer.state & CONNECTING:
                self._lost(leg)
            else:
                self._stuck(leg)

    def _open(self, family: int, descriptor: int) -> None:
        """A client has been accepted."""
        session = self._balancer.open(None)
        client = Leg(socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor), session, CLIENT, None)
        session.client = client
        self._room.sessions += 1
        self._put(descriptor, client)
        self._register(descriptor, EVENTS)
        try:
            self._connect(client)
        except Exception:
            self.log.failure("a client's session failed")
            self.end(client, Ending.STOPPED, reset=True)

    def _put(self, descriptor: int, what: Leg | Listener | Other) -> None:
        """Let events of the descriptor come to `what`."""
        try:
            self._legs[descriptor] = what
        except IndexError:
            self._legs.extend([GONE] * (descriptor + 1))
            self._legs[descriptor] = what

    def _connect(self, client: Leg) -> None:
        """Start to connect to the session's next back-end, or let the client go."""
        session = client.session
        while (backend := session.next()) is not None:
            address = backend.address
            try:
                sock = socket.SocketType(socket.AF_INET6 if ":" in address else socket.AF_INET, _NONBLOCKING, 0)
            except OSError as failure:
                session.failed(blame=failure.errno not in LOCAL_ERRORS)
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # the handshake's last ACK waits for first data
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
            self._wake()
            return
        session.give_up()
        self._close(client, reset=False)

    def _connected(self, leg: Leg, event: int) -> None:
        """Something has become of a connect."""
        if event & (_ERROR | select.EPOLLHUP):
            self._connect_failed(leg, leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        elif event & select.EPOLLOUT:
            leg.state = NAGLE
            leg.session.connected()
            client = leg.peer
            assert client is not None
            if client.state & READABLE:  # as if it had come but now
                client.state &= ~READABLE
                self._events.append((client.sock.fileno(), _IN | _RDHUP if client.state & HUNG_UP else _IN))
            else:  # a server that is to speak first must not wait for that ACK
                leg.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
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
        self._legs[sock.fileno()] = self._legs[other.fileno()] = GONE
        self._closing += (sock, other)
        leg.state = peer.state = CLOSED
        leg.peer = session.client = None  # opens the circles
        self._room.leave()

    def end(self, leg: Leg, ending: Ending, *, reset: bool) -> None:
        """End a leg's session; both sides at once."""
        self._account(leg, ending)
        peer = leg.peer
        if peer is not None:
            if reset:
                peer.reset()
            self._forget(peer)
        self._close(leg, reset=reset)

    def _account(self, leg: Leg, ending: Ending) -> None:
        session, peer = leg.session, leg.peer
        if peer is not None:
            client, backend = (leg, peer) if leg.state & CLIENT else (peer, leg)
            session.up, session.down = client.count, backend.count
        session.ended(ending)

    def _close(self, leg: Leg, *, reset: bool) -> None:
        """The last of a session's legs."""
        if reset:
            leg.reset()
        self._forget(leg)
        self._room.leave()

    def _forget(self, leg: Leg) -> None:
        """Close a leg, and break its references, which are circles."""
        self._legs[leg.sock.fileno()] = GONE
        self._closing.append(leg.sock)
        if leg.state & STALLED:
            self._mover.drop(leg)
        if self._doomed:
            self._doomed.pop(leg, None)
        leg.state = CLOSED
        leg.peer = leg.session.client = None

    def close_sockets(self) -> None:
        for sock in self._closing:
            sock.close()
        self._closing.clear()

    def _stuck(self, leg: Leg) -> None:
        """A connection is dead, but its peer has yet to take what had arrived."""
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
            self._close(leg, reset=False)
            return
        if peer.state & CONNECTING:
            self.end(leg, Ending.CLIENT_GONE, reset=False)
            return
        self._account(leg, Ending.CLIENT_RESET if leg.state & CLIENT else Ending.BACKEND_RESET)
        self._forget(leg)
        peer.peer = None
        peer.state |= DYING
        self._doom(peer)
        self._reset_if_flushed(peer)

    def _reset_if_flushed(self, leg: Leg) -> None:
        if leg.peer is None and not leg.state & STALLED and (leg.state & BROKEN or not unsent(leg.sock)):
            self._close(leg, reset=True)

    def tick(self, now: float) -> bool:
        """See to what has become of time; whether another tick is needed."""
        young, self._young = self._young, {}
        for leg, deadline in young.items():
            if not leg.state & CLOSED:
                self._grow(leg, deadline, now)
        for leg, deadline in list(self._doomed.items()):
            if not leg.state & CLOSED:
                self._see_to(leg, overdue=deadline <= now)
        self._listeners.resume_if_room()
        if self._closing:
            self.close_sockets()
        return bool(self._young or self._doomed or self._listeners.paused)

    def _see_to(self, leg: Leg, *, overdue: bool) -> None:
        """A doomed leg: has it taken what came before its peer's reset?"""
        if not overdue:
            self._reset_if_flushed(leg)
        elif leg.peer is None:
            self._close(leg, reset=True)
        else:
            self.end(leg, Ending.BACKEND_RESET if leg.state & CLIENT else Ending.CLIENT_RESET, reset=True)

    def _grow(self, leg: Leg, deadline: float, now: float) -> None:
        """What most sessions do not live to see."""
        if not leg.state & CONNECTING:
            leg.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        elif deadline > now:
            self._young[leg] = deadline
        else:
            self._connect_failed(leg, ETIMEDOUT)
