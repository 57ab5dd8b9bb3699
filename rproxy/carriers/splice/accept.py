"""Accepting clients from Twisted's listening ports."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from rproxy.carriers.splice.endings import LegTable
from rproxy.carriers.splice.headers import HeaderReader
from rproxy.carriers.splice.leg import EVENTS, ClientLeg, Listener, PeerAddress
from rproxy.net.tcp_options import prepare_listener
from rproxy.net.tcp_state import protocol_of
from rproxy.pool.backend import Backend
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session

ACCEPTS_MAX: Final = 64
"""Most clients accepted for one event."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept(2) that pass with time: the process or the system has run out of descriptors or memory."""
_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})


def plain_socket(port: object, factory: object) -> socket.socket | None:
    """The socket of a Twisted port if it is plain TCP or a Unix stream, and passes its clients directly to `factory`.

    None for others: UDP, MPTCP, or a port whose clients go through a layer such as TLS.
    """
    sock = getattr(port, "socket", None)
    if getattr(port, "factory", None) is not factory or not isinstance(sock, socket.socket):
        return None
    if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
        return None
    return sock if sock.family == socket.AF_UNIX or protocol_of(sock) == socket.IPPROTO_TCP else None


class Listeners:
    """Accepts clients while process and service have capacity; while there is none, they wait in the kernel's queue.

    `connect` gets the leg of each client, which has a session, and the back-end chosen for it. When descriptors or
    memory run out, `table.wake` is called: the next tick calls `resume_if_possible`.
    """

    def __init__(
        self,
        epoll: select.epoll,
        capacity: Capacity,
        table: LegTable,
        connect: Callable[[ClientLeg, Backend | None], None],
    ) -> None:
        self._modify = epoll.modify
        self._register = epoll.register
        self._capacity = capacity
        self._table = table
        self._cut = table.cut  # one bound method for all clients
        self._connect = connect
        self.headers = HeaderReader(table, self._begin)
        self.paused: list[Listener] = []

    def add(self, sock: socket.socket, service: Service, name: str) -> Listener:
        """Set the socket's options and return its `Listener`."""
        prepare_listener(sock)
        if sock.family != socket.AF_UNIX:
            # Inherited by accepted sockets: the first data is acknowledged with the answer.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        return Listener(sock, service, name)

    def forget(self, listener: Listener) -> None:
        """Resume it no more."""
        if listener in self.paused:
            self.paused.remove(listener)

    def accept(self, listener: Listener) -> None:
        """The listener is readable."""
        capacity, own = self._capacity, listener.service.capacity
        for _ in range(listener.batch):
            if capacity.sessions >= capacity.sessions_max or own.sessions >= own.sessions_max:
                self._pause(listener)
                (capacity if capacity.full else own).wait(partial(self._resume, listener))
                return
            try:
                descriptor, address = listener.accept()
            except BlockingIOError:
                listener.batch = 1
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(listener)
                    self._table.wake()
                return
            self._open(listener, descriptor, address)
        listener.batch = min(2 * listener.batch, ACCEPTS_MAX)

    def _open(self, listener: Listener, descriptor: int, address: PeerAddress) -> None:
        """Open the session of an accepted client."""
        table, capacity = self._table, self._capacity
        sock = socket.SocketType(listener.family, socket.SOCK_STREAM, 0, descriptor)
        client = ClientLeg(sock, address, self._cut)
        client.session = session = Session(listener.service, client, listener.name)
        # `Capacity.enter` and `LegTable.put` are inlined: fewer calls for each client.
        capacity.sessions += 1
        if capacity.sessions >= capacity.sessions_max:
            capacity.filled()
        own = listener.service.capacity
        own.sessions += 1
        if own.sessions >= own.sessions_max:
            own.filled()
        try:
            table.legs[descriptor] = client
        except IndexError:
            table.put(descriptor, client)
        try:
            self._register(descriptor, EVENTS)
            service = listener.service
            if service.proxy_headers is not None:
                self.headers.expect(client, service.proxy_headers)
                return
            if service.gate is not None and not session.admit():
                table.close_last(client, reset=True)
                return
            self._connect(client, session.choose_backend())
        except Exception:
            table.fail(client)

    def _begin(self, client: ClientLeg) -> None:
        """The PROXY header of a client is complete."""
        session = client.session
        if session.service.gate is not None and not session.admit():
            self._table.close_last(client, reset=True)
            return
        self._connect(client, session.choose_backend())

    def _pause(self, listener: Listener) -> None:
        self._modify(listener.sock.fileno(), 0)
        self.paused.append(listener)

    def resume_if_possible(self) -> None:
        """Accept again on paused listeners, where there is capacity."""
        if self.paused and not self._capacity.full:
            for listener in [each for each in self.paused if not each.service.capacity.full]:
                self._resume(listener)

    def _resume(self, listener: Listener) -> None:
        if listener not in self.paused:
            return
        self.paused.remove(listener)
        if listener.sock.fileno() >= 0:
            self._modify(listener.sock.fileno(), listener.events)
