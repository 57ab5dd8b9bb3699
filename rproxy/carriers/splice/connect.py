"""From an accepted client to a connected back-end, for the splice carrier: connect, wait in the queue, redispatch."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from errno import ECONNREFUSED, EINPROGRESS, ETIMEDOUT
from functools import partial
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import Final

from rproxy.carriers.splice.endings import LegTable
from rproxy.carriers.splice.headers import send_header
from rproxy.carriers.splice.leg import EVENTS, Leg
from rproxy.carriers.splice.states import (
    CLIENT,
    CLOSED,
    CONNECTING,
    DEAD,
    EARLY,
    EOF,
    HUNG_UP,
    NAGLE,
    READABLE,
    STALLED,
    WAITING,
)
from rproxy.carriers.splice.transfer import Transfer
from rproxy.net.outgoing import LOCAL_ERRORS
from rproxy.net.own_addresses import ephemeral_ports
from rproxy.net.tcp_options import keep_alive
from rproxy.net.tcp_state import is_self_connected
from rproxy.pool.backend import Backend
from rproxy.sessions.endings import Ending
from rproxy.sessions.origin import header_of
from rproxy.sessions.redispatch import EARLY_END_S

_NONBLOCKING: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class Connector:
    """Connects clients to their back-ends.

    `requeue` adds an event to the present batch, `handle` handles one at once. Connect timeouts are as precise as the
    ticks that `table.wake` schedules.
    """

    def __init__(
        self,
        epoll: select.epoll,
        table: LegTable,
        transfer: Transfer,
        *,
        requeue: Callable[[int, int], None],
        handle: Callable[[Leg, int], None],
    ) -> None:
        self._register = epoll.register
        self._table = table
        self._transfer = transfer
        self._requeue = requeue
        self._handle = handle
        self._ephemeral_ports = ephemeral_ports()
        """Ports of this end of a connect. Only a connect to one of them can be connected to itself."""
        self.recent: dict[Leg, float] = {}
        """Connecting or just-connected back-end legs, with their connect deadlines. Ticks go on until it is empty."""

    def connect(self, client: Leg, backend: Backend | None) -> None:
        """Start to connect to `backend`, or to others in turn if that fails at once.

        Without a back-end, the client waits in the queue if it may, or is refused.
        """
        session, table = client.session, self._table
        service = session.service
        while backend is not None:
            address = backend.address
            outbound = service.outbound_to(backend) if service.special else service.outbound
            try:
                sock = socket.SocketType(socket.AF_INET6 if ":" in address else socket.AF_INET, _NONBLOCKING, 0)
            except OSError as failure:
                session.connect_failed(backend_fault=failure.errno not in LOCAL_ERRORS)
                backend = session.choose_backend()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # the last ACK of the handshake carries data
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # later, urgent data could be lost
            if outbound.source is None:
                error = sock.connect_ex((address, backend.port))
            else:
                error = outbound.source.connect(sock, (address, backend.port), session.link.client())
            if error and error != EINPROGRESS:
                table.closing.append(sock)
                session.connect_failed(backend_fault=error not in LOCAL_ERRORS)
                backend = session.choose_backend()
                continue
            leg = client.peer = Leg(sock, session, CONNECTING | NAGLE, client)
            if client.count or client.state & EOF:  # sent before, to a back-end that did not take it
                leg.backlog = session.early_data
                leg.state |= STALLED
            if outbound.send_proxy:
                leg.backlog = header_of(session, outbound.send_proxy) + (leg.backlog or b"")
            descriptor = sock.fileno()
            try:  # `LegTable.put` is inlined: one call fewer for each client
                table.legs[descriptor] = leg
            except IndexError:
                table.put(descriptor, leg)
            self._register(descriptor, EVENTS)
            if not self.recent:
                table.wake()
            self.recent[leg] = session.connect_deadline
            return
        if session.wait_for_backend(partial(self._resume, client)):
            client.state |= WAITING
            if client.state & HUNG_UP:  # behind a PROXY header: no further event says so
                self.waiting_event(client, EPOLLRDHUP)
            return
        session.give_up()
        table.close_last(client, reset=client.count > 0)  # a clean end would claim that its data was taken

    def _resume(self, client: Leg) -> None:
        """Called back by the wait queue: a back-end is eligible, or the client's wait is over."""
        client.state &= ~WAITING
        try:
            self.connect(client, client.session.choose_backend())
        except Exception:
            self._table.fail(client)
        self._table.close_sockets()

    def waiting_event(self, client: Leg, event: int) -> None:
        """An event of a client in the wait queue. Its data stays in the kernel."""
        if event & (EPOLLERR | EPOLLHUP) or (event & EPOLLRDHUP and not self._has_sent(client)):
            self._table.end(client, Ending.CLIENT_GONE, reset=False)
        elif event & EPOLLIN:
            client.state |= READABLE | HUNG_UP if event & EPOLLRDHUP else READABLE

    def _has_sent(self, client: Leg) -> bool:
        """Whether the client has sent data that is to be passed on."""
        if client.session.early_data:
            return True
        try:
            return bool(client.sock.recv(1, _PEEK))
        except OSError:
            return False

    def connect_event(self, leg: Leg, event: int) -> None:
        """An event of a connecting leg."""
        if event & (EPOLLERR | EPOLLHUP):
            self._connect_failed(leg, leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        elif event & EPOLLOUT:
            session = leg.session
            backend = session.backend
            assert backend is not None
            if backend.port in self._ephemeral_ports and self._is_self_connected(leg, backend):
                leg.reset_on_close()
                self._connect_failed(leg, ECONNREFUSED)
                return
            resend = leg.state & STALLED
            leg.state = NAGLE | EARLY
            session.connected()
            client = leg.peer
            assert client is not None
            if resend:
                self._resend(leg)
            elif leg.backlog is not None:
                send_header(self._transfer, leg, client)
            elif client.state & READABLE:  # as if its data came only now
                client.state &= ~READABLE
                self._requeue(client.sock.fileno(), EPOLLIN | EPOLLRDHUP if client.state & HUNG_UP else EPOLLIN)
            else:  # a server that speaks first must not wait for the last ACK of the handshake
                leg.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            if event & EPOLLIN:
                self._handle(leg, event)

    def _is_self_connected(self, leg: Leg, backend: Backend) -> bool:
        address = (backend.address, backend.port)
        return leg.session.service.may_self_connect(address) and is_self_connected(leg.sock, *address)

    def _resend(self, leg: Leg) -> None:
        """Send what the last back-end did not take, including the end of stream, then what has come since."""
        self._transfer.set_no_delay(leg, len(leg.backlog or b""))
        leg.state |= STALLED
        self._transfer.flush(leg)

    def _connect_failed(self, leg: Leg, error: int) -> None:
        client = leg.peer
        assert client is not None
        client.peer = None
        if error == ETIMEDOUT:
            leg.reset_on_close()  # it may complete at this very moment
        self._table.close_leg(leg)
        session = client.session
        try:
            session.connect_failed(backend_fault=error not in LOCAL_ERRORS)
            if client.state & DEAD:
                self._table.connection_failed(client)
            else:
                self.connect(client, session.choose_backend())
        except Exception:
            self._table.fail(client)

    def redispatch(self, leg: Leg, *, reset: bool) -> bool:
        """A leg ended before it sent a byte; returns whether its client is being redispatched to another back-end."""
        client = leg.peer
        if leg.state & (CLIENT | CONNECTING) or client is None or client.state & DEAD:
            return False
        session = leg.session
        if not session.try_redispatch(client.count, reset=reset):
            return False
        client.peer = None
        self._table.close_leg(leg)
        try:
            self.connect(client, session.choose_backend())
        except Exception:
            self._table.fail(client)
        return True

    def connection_failed(self, leg: Leg) -> None:
        """A connection has failed, and all that arrived from it has been passed on, or is to be discarded."""
        if leg.count or not self.redispatch(leg, reset=True):
            self._table.connection_failed(leg)

    def client_reset(self, client: Leg) -> None:
        """The client reset while its back-end was connecting: deliver what it sent before, then the reset."""
        if client.peer is not None and self._has_sent(client):
            self._table.connection_failed_undelivered(client)
        else:
            self._table.end(client, Ending.CLIENT_GONE, reset=True)

    def tick(self, now: float) -> bool:
        """Expire deadlines; return whether another tick is needed."""
        recent, self.recent = self.recent, {}
        for leg, deadline in recent.items():
            if not leg.state & CLOSED:
                self._check_recent(leg, deadline, now)
        return bool(self.recent)

    def _check_recent(self, leg: Leg, deadline: float, now: float) -> None:
        """In a tick: enable keepalive, or time out the connect. Most sessions end before either."""
        session = leg.session
        if not leg.state & CONNECTING:
            if session.connected_at is not None and now - session.connected_at <= EARLY_END_S:
                self.recent[leg] = deadline
                return
            leg.state &= ~EARLY
            session.settled()
            keep_alive(leg.sock)
        elif deadline > now:
            self.recent[leg] = deadline
        else:
            self._connect_failed(leg, ETIMEDOUT)
