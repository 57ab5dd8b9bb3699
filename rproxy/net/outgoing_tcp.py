"""Twisted's client transport, connected by a function of ours."""

from __future__ import annotations

from collections.abc import Callable
from errno import EINPROGRESS
from os import strerror
from socket import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.error import getConnectError
from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import ClientFactory

from rproxy.net.addresses import Address

Connect = Callable[[socket], int]
"""Binds a new socket, and begins to connect it. Returns what connect(2) would: 0, EINPROGRESS or the error."""


class _Client(tcp.Client):
    def __init__(self, connector: _Connector, connect: Connect, reactor: Any) -> None:
        self._connect: Connect | None = connect
        super().__init__(connector.host, connector.port, None, connector, reactor)

    def doConnect(self) -> None:
        """Called to begin, and when the socket is connected or has failed, which Twisted finds out by itself."""
        connect, self._connect = self._connect, None
        if connect is not None and hasattr(self, "connector"):  # the attempt has not been stopped meanwhile
            error = connect(self.socket)
            if error not in (0, EINPROGRESS):
                self.failIfNotConnected(getConnectError((error, strerror(error))))
                return
        super().doConnect()


class _Connector(tcp.Connector):
    def __init__(self, address: Address, factory: ClientFactory[Any], connect: Connect, reactor: Any) -> None:
        super().__init__(*address, factory, None, None, reactor)  # type: ignore[arg-type]
        self._connect = connect

    def _makeTransport(self) -> _Client:
        return _Client(self, self._connect, self.reactor)


def connect_tcp(address: Address, factory: ClientFactory[Any], connect: Connect, reactor: Any) -> IConnector:
    """As `reactor.connectTCP` without a timeout, but the socket is connected by `connect`, in the reactor's next turn.

    `address` must be an IP address. The reactor must be one of POSIX systems.
    """
    connector: Any = _Connector(address, factory, connect, reactor)
    connector.connect()
    made: IConnector = connector
    return made
