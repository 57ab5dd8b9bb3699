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
        self._ports: dict[Any, Capacity] = {}
        """Each with the capacity of its service."""
        capacity.when_full(self._pause)

    def add(self, port: IListeningPort, own: Capacity) -> None:
        """`own` is the capacity of the service whose clients it accepts."""
        sock = getattr(port, "socket", None)
        if isinstance(sock, socket.socket):
            prepare_listener(sock)
        if IReadDescriptor.providedBy(port):
            self._forget_closed()
            descriptor: Any = port
            descriptor.doRead = partial(self._accept, descriptor, descriptor.doRead)
            self._own(port, own)

    def _own(self, port: Any, own: Capacity) -> None:
        self._ports[port] = own
        own.when_full(self._pause)
        if own.full or self._capacity.full:
            self._pause()

    def reassign(self, port: IListeningPort, own: Capacity) -> None:
        """From now on `port` accepts another service's clients; `own` is that service's capacity."""
        if port in self._ports and self._ports[port] is not own:
            self._own(port, own)
            self._resume()

    def remove(self, port: IListeningPort) -> None:
        """Leave `port` to another carrier, which accepts its clients and pauses it."""
        if self._ports.pop(port, None) is not None:
            descriptor: Any = port
            del descriptor.doRead

    def _forget_closed(self) -> None:
        self._ports = {port: own for port, own in self._ports.items() if port.connected}

    def _accept(self, port: Any, accept: Callable[[], None]) -> None:
        """Accept no more clients than there is capacity for; Twisted accepts `numberAccepts` in one turn."""
        left = min(each.sessions_max - each.sessions for each in (self._capacity, self._ports[port]))
        port.numberAccepts = max(min(port.numberAccepts, left), 0)
        accept()

    def _pause(self) -> None:
        """The process or a service is full."""
        if self._capacity.full:
            self._capacity.wait(self._resume)
        for port, own in self._ports.items():
            if own.full:
                own.wait(self._resume)
            if own.full or self._capacity.full:
                port.stopReading()

    def _resume(self) -> None:
        self._forget_closed()
        for port, own in self._ports.items():
            if not (port.disconnecting or own.full or self._capacity.full):
                port.startReading()
        self._pause()  # others may still be full, as after the limit was lowered
