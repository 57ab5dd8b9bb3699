"""Makes Twisted's listening ports accept no more clients than there is capacity for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IListeningPort, IReadDescriptor

from rproxy.net.tcp_options import prepare_listener
from rproxy.sessions.capacity import Capacity


class Ports:
    """Pauses the ports while there is no capacity; clients wait in the kernel's queues."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._ports: list[Any] = []
        capacity.when_full(self._pause)

    def add(self, port: IListeningPort) -> None:
        sock = getattr(port, "socket", None)
        if isinstance(sock, socket.socket):
            prepare_listener(sock)
        if IReadDescriptor.providedBy(port):
            self._ports.append(port)
            descriptor: Any = port
            descriptor.doRead = partial(self._accept, descriptor, descriptor.doRead)

    def remove(self, port: IListeningPort) -> None:
        """Leave `port` to another carrier, which accepts its clients and pauses it."""
        self._ports.remove(port)

    def _accept(self, port: Any, accept: Callable[[], None]) -> None:
        """Accept no more clients than there is capacity for; Twisted accepts `numberAccepts` in one turn."""
        port.numberAccepts = max(min(port.numberAccepts, self._capacity.sessions_max - self._capacity.sessions), 0)
        accept()

    def _pause(self) -> None:
        for port in self._ports:
            port.stopReading()
        self._capacity.wait(self._resume)

    def _resume(self) -> None:
        self._ports = [port for port in self._ports if port.connected]
        for port in self._ports:
            if not port.disconnecting:
                port.startReading()
