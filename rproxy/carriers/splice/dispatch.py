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
from typing import Any, Final

from twisted.logger import Logger

from rproxy.carriers.splice.accept import Listeners
from rproxy.carriers.splice.connect import Dialer
from rproxy.carriers.splice.endings import LegTable
from rproxy.carriers.splice.leg import (
    BROKEN,
    CLOSED,
    CONNECTING,
    DEAF,
    EOF,
    FRESH,
    HEEDED,
    HUNG_UP,
    LISTENING,
    MORE,
    NOW,
    PLAIN,
    RARE,
    READABLE,
    SHUT,
    SIZE,
    STALLED,
    WAITING,
    Leg,
    Other,
)
from rproxy.carriers.splice.pipes import Pipes
from rproxy.carriers.splice.transfer import Transfer
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service

_IN: Final = select.EPOLLIN
_PRI: Final = select.EPOLLPRI
_ERROR: Final = select.EPOLLERR
_RDHUP: Final = select.EPOLLRDHUP
_PLAIN: Final = _IN | select.EPOLLOUT
_ARRIVED: Final = _IN | _PRI | _RDHUP | select.EPOLLHUP | _ERROR
_RARE_EVENTS: Final = _PRI | _ERROR


class SplicedSessions:
    """Accepts, connects, and has the bytes moved.

    `wake` asks for a `tick` within a moment. A deadline is kept with the precision of the ticks.
    """

    log = Logger()

    def __init__(
        self, epoll: select.epoll, service: Service, capacity: Capacity, pipes: Pipes, wake: Callable[[], None]
    ) -> None:
        self._register = epoll.register
        self._unregister = epoll.unregister
        self._table = table = LegTable(service, capacity, wake)
        self._transfer = Transfer(
            epoll, pipes, finished=table.finished, lost=self._lost, stuck=table.stuck, unused=self._unused
        )
        table.drop = self._transfer.drop
        self._dialer = Dialer(
            epoll,
            service,
            capacity,
            table,
            self._transfer,
            cut=self.end,
            again=self._again,
            ready=self._ready,
            wake=wake,
        )
        self._listeners = Listeners(epoll, capacity, opened=self._dialer.open, wake=wake)
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
        spliced, self._transfer.spliced = self._transfer.spliced, False
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
        table, transfer, ready = self._table, self._transfer, self._ready
        legs: list[Any] = table.legs
        buffer, view = transfer.buffer, transfer.view
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
            if event == _PLAIN and not peer.state & FRESH:
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
                if peer.state & FRESH:
                    transfer.begin(peer, size)
                last = event & _RDHUP and size < SIZE
                try:
                    sent = peer.sock.send(view[:size], MORE if last else NOW)
                except OSError:
                    sent = 0
                if sent != size or not last:
                    self._more(leg, event, sent, size)
                    if last:
                        transfer.end_of_stream(leg)
                    continue
            elif not leg.count and self._dialer.another(leg, reset=False):
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

    def _again(self, descriptor: int, event: int) -> None:
        """Have an event handled, as if it had come now."""
        self._events.append((descriptor, event))

    def _unread(self, leg: Leg, event: int, error: OSError) -> None:
        """A read gave an error, which is told but once: another read would find the end of the stream."""
        if not isinstance(error, BlockingIOError):
            leg.state |= BROKEN
            self._ready(leg, event)

    def _more(self, leg: Leg, event: int, sent: int, size: int) -> None:
        """Not all that was read is written, or not all is read."""
        if sent != size:
            assert leg.peer is not None
            self._transfer.write_later(leg.peer, sent, size)
        if size == SIZE:
            self._ready(leg, event)

    def _ready(self, leg: Any, event: int) -> None:
        """Handle any event."""
        state = leg.state
        if state & CONNECTING:
            self._dialer.connected(leg, event)
            return
        if state & (LISTENING | CLOSED | HEEDED | WAITING):
            if state & LISTENING:
                self._listeners.accept(leg)
            elif state & WAITING:
                self._dialer.waits(leg, event)
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
            self._transfer.flush(leg)
        if leg.state & READABLE:
            self._transfer.pump(leg)
        if event & _ERROR and not leg.state & CLOSED:
            if leg.peer is None:
                self._table.lost(leg)
            elif leg.peer.state & CONNECTING:
                self._dialer.client_reset(leg)
            else:
                self._table.stuck(leg)

    def _lost(self, leg: Leg) -> None:
        self._dialer.lost(leg)

    def _unused(self, leg: Leg) -> bool:
        return self._dialer.another(leg, reset=False)

    def tick(self, now: float) -> bool:
        """See to what has become of time; whether another tick is needed."""
        young = self._dialer.tick(now)
        self._table.tick(now)
        self._listeners.resume_if_room()
        return bool(young or self._table.doomed or self._listeners.paused)
