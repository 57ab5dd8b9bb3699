"""From an accepted client to a back-end that answers, for the splice carrier: connect, wait for one, try another."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from errno import ECONNREFUSED, EINPROGRESS, ETIMEDOUT
from functools import partial
from typing import Final

from twisted.logger import Logger

from rproxy.carriers.splice.endings import LegTable
from rproxy.carriers.splice.leg import (
    BROKEN,
    CLIENT,
    CLOSED,
    CONNECTING,
    EARLY,
    EOF,
    EVENTS,
    HUNG_UP,
    NAGLE,
    READABLE,
    STALLED,
    WAITING,
    ClientLeg,
    Leg,
)
from rproxy.carriers.splice.transfer import Transfer
from rproxy.net.tcp_options import keep_alive, keep_urgent_in_line
from rproxy.net.tcp_state import is_self_connected
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.redispatch import EARLY_END_S
from rproxy.sessions.service import Service
from rproxy.sessions.session import LOCAL_ERRORS, Session

_IN: Final = select.EPOLLIN
_ERROR: Final = select.EPOLLERR
_RDHUP: Final = select.EPOLLRDHUP
_NONBLOCKING: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_LOOK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class Dialer:
    """Finds every client its back-end.

    `cut` ends a leg's session at once. `again` has an event of a descriptor handled, `ready` does so at once; `wake`
    asks for a `tick` within a moment. A deadline is kept with the precision of the ticks.
    """

    log = Logger()

    def __init__(
        self,
        epoll: select.epoll,
        service: Service,
        capacity: Capacity,
        table: LegTable,
        transfer: Transfer,
        *,
        cut: Callable[[Leg, Ending], None],
        again: Callable[[int, int], None],
        ready: Callable[[Leg, int], None],
        wake: Callable[[], None],
    ) -> None:
        self._register = epoll.register
        self._service = service
        self._capacity = capacity
        self._table = table
        self._transfer = transfer
        self._cut = cut
        self._again = again
        self._ready = ready
        self._wake = wake
        self.young: dict[Leg, float] = {}
        """The back-end legs of the last ticks and those on the way, with the deadlines of their connects."""

    def open(self, family: int, descriptor: int) -> None:
        """A client has been accepted."""
        client = ClientLeg(socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor), self._cut)
        client.session = Session(self._service, client)
        self._capacity.enter()
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
        """Start to connect to the session's next back-end, or let the client wait for one, or let it go."""
        session = client.session
        while (backend := session.choose_backend()) is not None:
            address = backend.address
            try:
                sock = socket.SocketType(socket.AF_INET6 if ":" in address else socket.AF_INET, _NONBLOCKING, 0)
            except OSError as failure:
                session.connect_failed(backend_fault=failure.errno not in LOCAL_ERRORS)
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # the handshake's last ACK waits for first data
            keep_urgent_in_line(sock)
            error = sock.connect_ex((address, backend.port))
            if error and error != EINPROGRESS:
                self._table.closing.append(sock)
                session.connect_failed(backend_fault=error not in LOCAL_ERRORS)
                continue
            leg = client.peer = Leg(sock, session, CONNECTING | NAGLE, client)
            if client.count or client.state & EOF:  # sent to another back-end, which did not take it
                leg.state |= STALLED
                leg.backlog = session.early_data
            descriptor = sock.fileno()
            self._table.put(descriptor, leg)
            self._register(descriptor, EVENTS)
            self.young[leg] = session.connect_deadline
            self._wake()
            return
        if session.wait_for_backend(partial(self._served, client)):
            client.state |= WAITING
            return
        session.give_up()
        self._table.close(client, reset=client.count > 0)  # what it has sent is lost

    def _served(self, client: Leg) -> None:
        """A client has waited, for a back-end or for as long as it may."""
        client.state &= ~WAITING
        try:
            self._connect_next(client)
        except Exception:
            self._fail(client)
        self._table.close_sockets()

    def waits(self, client: Leg, event: int) -> None:
        """Something has come from a client that waits. What it sends stays where it is, in the kernel."""
        if event & (_ERROR | select.EPOLLHUP) or (event & _RDHUP and not self._has_sent(client)):
            self._table.end(client, Ending.CLIENT_GONE, reset=False)
        elif event & _IN:
            client.state |= READABLE | HUNG_UP if event & _RDHUP else READABLE

    def _has_sent(self, client: Leg) -> bool:
        """Whether anything of the client is to be passed on, before its end if need be."""
        if client.session.early_data:
            return True
        try:
            return bool(client.sock.recv(1, _LOOK))
        except OSError:
            return False

    def connected(self, leg: Leg, event: int) -> None:
        """Something has become of a connect."""
        if event & (_ERROR | select.EPOLLHUP):
            self._failed(leg, leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        elif event & select.EPOLLOUT:
            if self._is_self_connected(leg):
                leg.reset()
                self._failed(leg, ECONNREFUSED)
                return
            resend = leg.state & STALLED
            leg.state = NAGLE | EARLY
            leg.session.connected()
            client = leg.peer
            assert client is not None
            if resend:
                self._resend(leg)
            elif client.state & READABLE:  # as if it had come but now
                client.state &= ~READABLE
                self._again(client.sock.fileno(), _IN | _RDHUP if client.state & HUNG_UP else _IN)
            else:  # a server that is to speak first must not wait for that ACK
                leg.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            if event & _IN:
                self._ready(leg, event)

    def _is_self_connected(self, leg: Leg) -> bool:
        backend = leg.session.backend
        assert backend is not None
        address = (backend.address, backend.port)
        return self._service.may_self_connect(address) and is_self_connected(leg.sock, *address)

    def _resend(self, leg: Leg) -> None:
        """What the last back-end did not take, the end of stream included, then what has come since."""
        self._transfer.settle(leg, len(leg.backlog or b""))
        leg.state |= STALLED
        self._transfer.flush(leg)

    def _failed(self, leg: Leg, error: int) -> None:
        client = leg.peer
        assert client is not None
        client.peer = None
        if error == ETIMEDOUT:
            leg.reset()  # it may have been completed by now
        self._table.forget(leg)
        try:
            client.session.connect_failed(backend_fault=error not in LOCAL_ERRORS)
            if client.state & BROKEN:
                self._table.lost(client)
            else:
                self._connect_next(client)
        except Exception:
            self._fail(client)

    def another(self, leg: Leg, *, reset: bool) -> bool:
        """A leg has ended before it brought a byte. Whether its client is given to another back-end."""
        client = leg.peer
        if leg.state & (CLIENT | CONNECTING) or client is None or client.state & BROKEN:
            return False
        if not leg.session.try_redispatch(client.count, reset=reset):
            return False
        client.peer = None
        self._table.forget(leg)
        try:
            self._connect_next(client)
        except Exception:
            self._fail(client)
        return True

    def lost(self, leg: Leg) -> None:
        """A connection is dead, and all that came from it is written or in a doomed peer's hands."""
        if leg.count or not self.another(leg, reset=True):
            self._table.lost(leg)

    def client_reset(self, client: Leg) -> None:
        """While its back-end is being connected, which gets what the client sent before, and the reset."""
        if client.peer is not None and self._has_sent(client):
            self._table.stuck(client)
        else:
            self._table.end(client, Ending.CLIENT_GONE, reset=True)

    def tick(self, now: float) -> bool:
        """See to what has become of time; whether another tick is needed."""
        young, self.young = self.young, {}
        for leg, deadline in young.items():
            if not leg.state & CLOSED:
                self._grow(leg, deadline, now)
        return bool(self.young)

    def _grow(self, leg: Leg, deadline: float, now: float) -> None:
        """What most sessions do not live to see."""
        session = leg.session
        if not leg.state & CONNECTING:
            if session.connected_at is not None and now - session.connected_at <= EARLY_END_S:
                self.young[leg] = deadline
                return
            leg.state &= ~EARLY
            session.settled()
            keep_alive(leg.sock)
        elif deadline > now:
            self.young[leg] = deadline
        else:
            self._failed(leg, ETIMEDOUT)
