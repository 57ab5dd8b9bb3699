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
    """Pauses ports while the process, or their own service, has no capacity; clients wait in the kernel's queues."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._ports: list[tuple[Any, Capacity]] = []
        """Each with the capacity of its service."""
        capacity.when_full(self._pause)

    def add(self, port: IListeningPort, own: Capacity) -> None:
        """`own` is the capacity of the service whose clients it accepts."""
        sock = getattr(port, "socket", None)
        if isinstance(sock, socket.socket):
            prepare_listener(sock)
        if IReadDescriptor.providedBy(port):
            self._ports.append((port, own))
            own.when_full(self._pause)
            descriptor: Any = port
            descriptor.doRead = partial(self._accept, descriptor, own, descriptor.doRead)
            if own.full or self._capacity.full:
                self._pause()

    def remove(self, port: IListeningPort) -> None:
        """Leave `port` to another carrier, which accepts its clients and pauses it."""
        self._ports = [each for each in self._ports if each[0] is not port]

    def _accept(self, port: Any, own: Capacity, accept: Callable[[], None]) -> None:
        """Accept no more clients than there is capacity for; Twisted accepts `numberAccepts` in one turn."""
        left = min(each.sessions_max - each.sessions for each in (self._capacity, own))
        port.numberAccepts = max(min(port.numberAccepts, left), 0)
        accept()

    def _pause(self) -> None:
        """The process or a service is full."""
        if self._capacity.full:
            self._capacity.wait(self._resume)
        for port, own in self._ports:
            if own.full:
                own.wait(self._resume)
            if own.full or self._capacity.full:
                port.stopReading()

    def _resume(self) -> None:
        self._ports = [each for each in self._ports if each[0].connected]
        for port, own in self._ports:
            if not (port.disconnecting or own.full or self._capacity.full):
                port.startReading()
        self._pause()  # others may still be full, as after the limit was lowered
