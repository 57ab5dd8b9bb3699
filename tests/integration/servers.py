"""Back-end servers that run in threads of the test."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from rproxy.net.addresses import Address
from tests.integration.addresses import LOOPBACK, address_of, family
from tests.integration.polling import SOCKET_S
from tests.integration.sockets import hang_up


class Listener:
    """A listening socket of a back-end; `accept` returns its connections."""

    def __init__(self, host: str = LOOPBACK, *, port: int = 0, backlog: int = 1024) -> None:
        self._socket = socket.socket(family(host))
        self._socket.bind((host, port))
        self._socket.listen(backlog)
        self._socket.settimeout(SOCKET_S)
        self.accepted: list[socket.socket] = []

    @property
    def address(self) -> Address:
        return address_of(self._socket)

    def accept(self) -> socket.socket:
        connection, _ = self._socket.accept()
        connection.settimeout(SOCKET_S)
        self.accepted.append(connection)
        return connection

    def close(self) -> None:
        """Close it and all accepted connections."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self.accepted:
            hang_up(connection)


class Server(Listener):
    """A back-end that runs `handle` in a thread for every connection, and then closes it."""

    def __init__(self, handle: Callable[[socket.socket], None], host: str = LOOPBACK, *, port: int = 0) -> None:
        super().__init__(host, port=port)
        self._socket.settimeout(None)
        self._handle = handle
        threading.Thread(target=self._accept_all, daemon=True).start()

    def _accept_all(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.accept(),), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._handle(connection)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


class DeafListener(Listener):
    """A port that drops every SYN, because its queue is full, until `hear` is called."""

    def __init__(self) -> None:
        super().__init__(backlog=0)
        self._fillers: list[socket.socket] = []
        while self._fits():
            pass

    def _fits(self) -> bool:
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(self.address)
        _, connected, _ = select.select([], [filler], [], 0.05)
        if connected:
            self._fillers.append(filler)
        else:
            filler.close()
        return bool(connected)

    def hear(self) -> None:
        """Empty the queue: the next SYN, retransmitted after a second, is accepted."""
        for filler in self._fillers:
            hang_up(self.accept())
            filler.close()
        self._fillers.clear()

    def close(self) -> None:
        for filler in self._fillers:
            filler.close()
        super().close()
