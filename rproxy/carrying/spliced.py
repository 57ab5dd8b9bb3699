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
from errno import ECONNREFUSED, EINPROGRESS, ETIMEDOUT
from typing import Any, Final

from twisted.logger import Logger

from rproxy.carrying.leg_table import LegTable
from rproxy.carrying.legs import (
    BROKEN,
    CLIENT,
    CLOSED,
    CONNECTING,
    DEAF,
    EOF,
    EVENTS,
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
    Other,
)
from rproxy.carrying.listeners import Listeners
from rproxy.carrying.mover import Mover
from rproxy.carrying.pipes import Pipes
from rproxy.carrying.room import Room
from rproxy.carrying.session import LOCAL_ERRORS, Balancer, Ending
from rproxy.carrying.sockets import keep_alive, keep_urgent_in_line, met_itself

_IN: Final = select.EPOLLIN
_PRI: Final = select.EPOLLPRI
_ERROR: Final = select.EPOLLERR
_RDHUP: Final = select.EPOLLRDHUP
_PLAIN: Final = _IN | select.EPOLLOUT
_ARRIVED: Final = _IN | _PRI | _RDHUP | select.EPOLLHUP | _ERROR
_RARE_EVENTS: Final = _PRI | _ERROR
_NONBLOCKING: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


class SplicedSessions:
    """Accepts, connects, and has the bytes moved.

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
        self._unregister = epoll.unregister
        self._table = table = LegTable(balancer, room, wake)
        self._mover = Mover(epoll, pipes, finished=table.finished, lost=table.lost, stuck=table.stuck)
        table.drop = self._mover.drop
        self._listeners = Listeners(epoll, room, opened=self._open, wake=wake)
        self._young: dict[Leg, float] = {}
        """The back-end legs of the last tick and those on the way, with the deadlines of their connects."""
        self._events: list[tuple[int, int]] = []
        self.called = False
        """Something heeded has become readable."""

    def listen(self, sock: socket.socket) -> None:
        listener = self._listeners.add(sock)
        self._table.put(sock.fileno(), listener)
        self._register(sock.fileno(), listener.events)

    def heed(self, descriptor: int) -> None:
        self._table.put(descriptor, Other(HEEDED))
        self._register(descriptor, select.EPOLLIN)

    def ignore(self, descriptor: int) -> None:
        self._unregister(descriptor)

    def slices(self) -> Iterator[list[Leg]]:
        return self._table.slices()

    def end(self, leg: Leg, ending: Ending) -> None:
        """End a leg's session at once: both sides see a reset."""
        self._table.end(leg, ending, reset=True)
        self._table.close_sockets()

    def take_bulk(self) -> bool:
        """Whether anything was spliced since this was asked before."""
        spliced, self._mover.spliced = self._mover.spliced, False
        return spliced

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
                leg = self._table.legs[descriptor]
                if isinstance(leg, Leg):
                    self._table.end(leg, Ending.STOPPED, reset=True)
        self._table.close_sockets()

    def _serve(self, remaining: Iterator[tuple[int, int]]) -> None:
        """Handle events.

        What nearly all of them ask for, to move a little data and perhaps the end of stream behind it, is written out
        here for speed; everything else, and the same in every other state, is the mover's.
        """
        table, mover, ready = self._table, self._mover, self._ready
        legs: list[Any] = table.legs
        buffer, view = mover.buffer, mover.view
        for descriptor, event in remaining:
            leg = legs[descriptor]
            state = leg.state
            if state & RARE or event & _RARE_EVENTS:
                ready(leg, event)
                continue
            peer = leg.peer
            if peer.state & DEAF:
                if event & _IN:
                    leg.state = state | (READABLE | HUNG_UP if event & _RDHUP else READABLE)
                continue
            if event == _PLAIN and not peer.state & NAGLE:
                size = 0
                try:
                    size = leg.sock.recv_into(buffer, SIZE, NOW)
                    sent = peer.sock.send(view[:size], NOW)
                except OSError as error:
                    if not size:
                        self._unread(leg, event, error)
                        continue
                    sent = 0
                leg.count += size
                if sent != size or size == SIZE:
                    self._more(leg, event, sent, size)
                continue
            if not event & _IN:
                continue
            try:
                size = leg.sock.recv_into(buffer, SIZE, NOW)
            except OSError as error:
                self._unread(leg, event, error)
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
                if sent != size or not last:
                    self._more(leg, event, sent, size)
                    if last:
                        mover.end_of_stream(leg)
                    continue
            if peer.state & EOF:
                table.finished(leg)
                continue
            leg.state = state | EOF
            peer.state |= SHUT
            leg.session.half_close()
            try:  # noqa: SIM105 - faster than a context manager
                peer.sock.shutdown(socket.SHUT_WR)
            except OSError:  # reset: an event tells
                pass

    def _unread(self, leg: Leg, event: int, error: OSError) -> None:
        """A read gave an error, which is told but once: another read would find the end of the stream."""
        if not isinstance(error, BlockingIOError):
            leg.state |= BROKEN
            self._ready(leg, event)

    def _more(self, leg: Leg, event: int, sent: int, size: int) -> None:
        """Not all that was read is written, or not all is read."""
        if sent != size:
            assert leg.peer is not None
            self._mover.write_later(leg.peer, sent, size)
        if size == SIZE:
            self._ready(leg, event)

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
                self._table.lost(leg)
            else:
                self._table.stuck(leg)

    def _open(self, family: int, descriptor: int) -> None:
        """A client has been accepted."""
        session = self._balancer.open(None)
        client = Leg(socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor), session, CLIENT, None)
        session.client = client
        self._room.enter()
        self._table.put(descriptor, client)
        try:
            self._register(descriptor, EVENTS)
            self._connect_next(client)
        except Exception:
            self._fail(client)

    def _fail(self, client: Leg) -> None:
        self.log.failure("a client's session failed")
        self._table.end(client, Ending.STOPPED, reset=True)

    def _connect_next(self, client: Leg) -> None:
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
            keep_urgent_in_line(sock)
            error = sock.connect_ex((address, backend.port))
            if error and error != EINPROGRESS:
                self._table.closing.append(sock)
                session.failed(blame=error not in LOCAL_ERRORS)
                continue
            leg = client.peer = Leg(sock, session, CONNECTING | NAGLE, client)
            descriptor = sock.fileno()
            self._table.put(descriptor, leg)
            self._register(descriptor, EVENTS)
            self._young[leg] = session.connect_by()
            self._wake()
            return
        session.give_up()
        self._table.close(client, reset=False)

    def _connected(self, leg: Leg, event: int) -> None:
        """Something has become of a connect."""
        if event & (_ERROR | select.EPOLLHUP):
            self._connect_failed(leg, leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        elif event & select.EPOLLOUT:
            backend = leg.session.backend
            assert backend is not None
            if self._balancer.may_meet_itself(backend) and met_itself(leg.sock, backend.address, backend.port):
                leg.reset()
                self._connect_failed(leg, ECONNREFUSED)
                return
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
        self._table.forget(leg)
        try:
            client.session.failed(blame=error not in LOCAL_ERRORS)
            self._connect_next(client)
        except Exception:
            self._fail(client)

    def tick(self, now: float) -> bool:
        """See to what has become of time; whether another tick is needed."""
        young, self._young = self._young, {}
        for leg, deadline in young.items():
            if not leg.state & CLOSED:
                self._grow(leg, deadline, now)
        self._table.tick(now)
        self._listeners.resume_if_room()
        return bool(self._young or self._table.doomed or self._listeners.paused)

    def _grow(self, leg: Leg, deadline: float, now: float) -> None:
        """What most sessions do not live to see."""
        if not leg.state & CONNECTING:
            keep_alive(leg.sock)
        elif deadline > now:
            self._young[leg] = deadline
        else:
            self._connect_failed(leg, ETIMEDOUT)
