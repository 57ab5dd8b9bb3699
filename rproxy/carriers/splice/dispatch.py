"""Passes the events of the splice carrier's descriptors to accepting, connecting and transfer.

A connection takes about as many system calls as in a proxy in C: both sockets are registered once, for all events; a
short read needs no second read to find the socket empty; data and the end of stream behind it leave in one packet.
"""

from __future__ import annotations

import operator
import select
import socket
from collections.abc import Callable, Iterator
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import Any, Final

from twisted.logger import Logger

from rproxy.carriers.splice.accept import Listeners
from rproxy.carriers.splice.connect import Connector
from rproxy.carriers.splice.endings import LegTable
from rproxy.carriers.splice.leg import CLOSED_SLOT, Leg, Listener, Other
from rproxy.carriers.splice.pipes import Pipes
from rproxy.carriers.splice.states import (
    CLOSED,
    CONNECTING,
    DEAD,
    EOF,
    FIRST_WRITES,
    HEADER,
    HUNG_UP,
    LISTENING,
    READABLE,
    SHUT,
    SLOW_PATH,
    STALLED,
    UNSPLICEABLE,
    UNWRITABLE,
    WAITING,
    WATCHED,
)
from rproxy.carriers.splice.transfer import DONTWAIT, DONTWAIT_MORE, SIZE, Transfer
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service

_READ_WRITE: Final = EPOLLIN | EPOLLOUT
_ARRIVED: Final = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR
_SLOW_EVENTS: Final = EPOLLPRI | EPOLLERR


class Dispatcher:
    """Handles batches of events. `wake` schedules a `tick`; deadlines are as precise as the ticks."""

    log = Logger()

    def __init__(
        self,
        epoll: select.epoll,
        capacity: Capacity,
        pipes: Pipes,
        seconds: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self._register = epoll.register
        self._unregister = epoll.unregister
        self.table = table = LegTable(capacity, pipes, seconds, wake)
        self.transfer = Transfer(
            epoll,
            pipes,
            finished=table.finished,
            failed=self._connection_failed,
            undelivered=table.connection_failed_undelivered,
            redispatched=self._redispatched,
        )
        self.connector = Connector(epoll, table, self.transfer, requeue=self._requeue, handle=self._handle)
        self._listeners = Listeners(epoll, capacity, table, self.connector.connect)
        self._headers = self._listeners.headers
        self._events: list[tuple[int, int]] = []
        self.watch_fired = False
        """Whether a watched descriptor has become readable."""

    def listen(self, sock: socket.socket, service: Service, name: str) -> None:
        """Accept clients of `service` on `sock`."""
        listener = self._listeners.add(sock, service, name)
        self.table.put(sock.fileno(), listener)
        self._register(sock.fileno(), listener.events)

    def forget(self, sock: socket.socket) -> bool:
        """Accept no more clients on `sock`, which stays open. Returns whether they were accepted here."""
        descriptor, legs = sock.fileno(), self.table.legs
        entry = legs[descriptor] if 0 <= descriptor < len(legs) else None
        if not isinstance(entry, Listener) or entry.sock is not sock:
            return False
        self._listeners.forget(entry)
        legs[descriptor] = CLOSED_SLOT
        self._unregister(descriptor)
        return True

    def watch(self, descriptor: int) -> None:
        self.table.put(descriptor, Other(WATCHED))
        self._register(descriptor, EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        self._unregister(descriptor)

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
                leg = self.table.legs[descriptor]
                if isinstance(leg, Leg):
                    self.table.end(leg, Ending.STOPPED, reset=True)
        if self.table.closing:
            self.table.close_sockets()

    def _serve(self, remaining: Iterator[tuple[int, int]]) -> None:
        """Handle events.

        The common case, to move a little data that may be followed by the end of stream, is inlined here for speed.
        `Transfer` handles everything else, and this case in all other states.
        """
        table, transfer, handle = self.table, self.transfer, self._handle
        legs: list[Any] = table.legs
        buffer, view = transfer.buffer, transfer.view
        for descriptor, event in remaining:
            leg = legs[descriptor]
            state = leg.state
            if state & SLOW_PATH or event & _SLOW_EVENTS:
                handle(leg, event)
                continue
            peer = leg.peer
            if peer.state & UNWRITABLE:
                if event & EPOLLIN:
                    leg.state = state | (READABLE | HUNG_UP if event & EPOLLRDHUP else READABLE)
                continue
            if event == _READ_WRITE and not peer.state & FIRST_WRITES:
                size = 0
                try:
                    size = leg.sock.recv_into(buffer, SIZE, DONTWAIT)
                    sent = peer.sock.send(view[:size], DONTWAIT)
                except OSError as error:
                    if not size:
                        self._read_failed(leg, event, error)
                        continue
                    sent = 0
                leg.count += size
                if sent != size or size == SIZE:
                    self._continue(leg, event, sent, size)
                continue
            if not event & EPOLLIN:
                continue
            try:
                size = leg.sock.recv_into(buffer, SIZE, DONTWAIT)
            except OSError as error:
                self._read_failed(leg, event, error)
                continue
            if size:
                leg.count += size
                if peer.state & FIRST_WRITES:
                    transfer.before_write(peer, size)
                last = event & EPOLLRDHUP and size < SIZE
                try:
                    sent = peer.sock.send(view[:size], DONTWAIT_MORE if last else DONTWAIT)
                except OSError:
                    sent = 0
                if sent != size or not last:
                    self._continue(leg, event, sent, size)
                    if last:
                        transfer.end_of_stream(leg)
                    continue
            elif not leg.count and self.connector.redispatch(leg, reset=False):
                continue
            if peer.state & EOF:
                table.finished(leg)
                continue
            leg.state = state | EOF
            peer.state |= SHUT
            leg.session.half_close()
            try:  # noqa: SIM105 - faster than a context manager
                peer.sock.shutdown(socket.SHUT_WR)
            except OSError:  # it was reset: an event reports that
                pass

    def _requeue(self, descriptor: int, event: int) -> None:
        """Handle an event at the end of this batch, as if it had come only now."""
        self._events.append((descriptor, event))

    def _read_failed(self, leg: Leg, event: int, error: OSError) -> None:
        """A read raised `error`. The kernel reports an error only once: the next read would find an end of stream."""
        if not isinstance(error, BlockingIOError):
            leg.state |= DEAD
            self._handle(leg, event)

    def _continue(self, leg: Leg, event: int, sent: int, size: int) -> None:
        """Not all that was read has been written, or there may be more to read."""
        if sent != size:
            assert leg.peer is not None
            self.transfer.write_later(leg.peer, sent, size)
        if size == SIZE:
            self._handle(leg, event)

    def _handle(self, leg: Any, event: int) -> None:
        """Handle any event of any descriptor."""
        state = leg.state
        if state & CONNECTING:
            self.connector.connect_event(leg, event)
            return
        if state & (LISTENING | CLOSED | WATCHED | WAITING | HEADER):
            if state & LISTENING:
                self._listeners.accept(leg)
            elif state & HEADER:
                self._headers.event(leg, event)
            elif state & WAITING:
                self.connector.waiting_event(leg, event)
            elif state & WATCHED:
                self.watch_fired = True
            return
        if event & _ARRIVED and not (state & EOF and not event & EPOLLERR):
            state |= READABLE
            if event & EPOLLRDHUP:
                state |= HUNG_UP
            if event & EPOLLPRI:
                state |= UNSPLICEABLE
            if event & EPOLLERR:
                state |= DEAD
            leg.state = state
        if state & STALLED and event & EPOLLOUT and not state & DEAD:
            self.transfer.flush(leg)
        if leg.state & READABLE:
            self.transfer.pump(leg)
        if event & EPOLLERR and not leg.state & CLOSED:  # callbacks may close the leg: check CLOSED again
            if leg.peer is None:
                self.table.connection_failed(leg)
            elif leg.peer.state & CONNECTING:
                self.connector.client_reset(leg)
            else:
                self.table.connection_failed_undelivered(leg)

    def _connection_failed(self, leg: Leg) -> None:
        self.connector.connection_failed(leg)

    def _redispatched(self, leg: Leg) -> bool:
        return self.connector.redispatch(leg, reset=False)

    def tick(self, now: float) -> bool:
        """Expire deadlines; return whether another tick is needed."""
        recent = self.connector.tick(now)
        awaited = self._headers.tick(now)
        self.table.tick(now)
        self._listeners.resume_if_possible()
        return bool(recent or awaited or self.table.flushing or self._listeners.paused)
