"""The back-end's connection on Twisted's transports, and the factory that makes it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.error import ConnectBindError, ConnectionDone
from twisted.internet.interfaces import IAddress, IConnector
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.python.failure import Failure

from rproxy.carriers.portable.client_side import ClientSide
from rproxy.carriers.portable.outgoing_header import read_arrived
from rproxy.carriers.portable.side import Side
from rproxy.net.outgoing import LOCAL_ERRORS
from rproxy.net.tcp_options import keep_alive, keep_urgent_in_line
from rproxy.net.tcp_state import below_tls, is_self_connected, socket_of


class BackendSide(Side):
    """The connection to the chosen back-end. Calls `established` with itself once it is connected."""

    def __init__(self, client: ClientSide, established: Callable[[BackendSide], None]) -> None:
        self._client = client
        self._established = established
        self.deadlines = client.deadlines
        self.session = client.session

    def connectionMade(self) -> None:
        handle = socket_of(self.transport)
        if handle is not None:
            if self._is_self_connected(handle):
                self.transport.abortConnection()
                self._client.connect_failed(backend_fault=True)
                return
            with suppress(OSError):  # the peer may be gone already
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._established(self)
        self._send_header()
        self.tcp_connected()

    def tcp_connected(self) -> None:
        """TCP is connected."""
        self._client.connect_succeeded(self)

    def _send_header(self) -> None:
        """Write the PROXY header, below TLS, if the back-end gets one. What follows at once leaves in its packet."""
        header = self._client.proxy_header
        if header:
            if not self._client.lost and not self.session.up:
                read_arrived(self._client.transport)
            below_tls(self.transport).write(header)

    def _is_self_connected(self, handle: socket.socket) -> bool:
        backend = self.session.backend
        if backend is None or not self.session.service.may_self_connect((backend.address, backend.port)):
            return False
        return is_self_connected(handle, backend.address, backend.port)

    def enable_keepalive(self) -> None:
        handle = None if self.lost else socket_of(self.transport)
        if handle is not None:
            keep_alive(handle)

    def dataReceived(self, data: bytes) -> None:
        self.session.down += len(data)
        self._client.transport.write(data)

    def stream_ended(self) -> None:
        if self.peer is None or self.session.down or not self._client.redispatch(reset=False):
            super().stream_ended()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self.peer is None:
            return
        clean = self.is_done or reason.check(ConnectionDone) is not None
        if self.session.down or not self._client.redispatch(reset=not clean):
            self._client.side_lost(self, self.peer, reason)


class BackendFactory(ClientFactory):
    """One attempt to connect."""

    noisy = False

    def __init__(self, client: ClientSide, established: Callable[[BackendSide], None]) -> None:
        self._client = client
        self._established = established

    def startedConnecting(self, connector: IConnector) -> None:
        """Twisted has made the socket; it connects in the next turn of the reactor."""
        handle = getattr(getattr(connector, "transport", None), "socket", None)
        if isinstance(handle, socket.socket):
            keep_urgent_in_line(handle)

    def buildProtocol(self, addr: IAddress | None) -> BackendSide:
        return BackendSide(self._client, self._established)

    def clientConnectionLost(self, connector: Any, reason: Failure) -> None:
        connector.transport = None  # breaks a reference cycle

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        local = reason.check(ConnectBindError) or getattr(reason.value, "osError", None) in LOCAL_ERRORS
        self._client.connect_failed(backend_fault=not local)
