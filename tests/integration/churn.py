"""Very many short sessions, from one process to another: `serve` is the back-end, `visit` are the clients.

Run as programs, because the test's own process would be busier than the proxy: `python -m tests.integration.churn`.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs

from tests.integration.processes import LOOPBACK, SOCKET_S, payload, reset

ANSWER: Final = payload(100)
BULK: Final = payload(300_000)

CLOSE: Final = b"c"
"""A client's one byte, which says how its session ends: after its answer the server closes."""
RESET: Final = b"r"
"""The server resets."""
SEND_MUCH: Final = b"b"
"""The server closes, and the answer is long."""
KEEP: Final = b"k"
"""The server waits for the client's end."""


def serve(ports: int) -> None:
    """On so many ports, whose numbers are printed first, until killed."""
    poller = select.epoll()
    listeners = {}
    connections: dict[int, socket.socket] = {}
    for _ in range(ports):
        listener = socket.create_server((LOOPBACK, 0), backlog=4096)
        listeners[listener.fileno()] = listener
        poller.register(listener, select.EPOLLIN)
    print(*(listener.getsockname()[1] for listener in listeners.values()), flush=True)
    while True:
        for descriptor, _ in poller.poll():
            if listener := listeners.get(descriptor):
                connection, _ = listener.accept()
                connections[connection.fileno()] = connection
                poller.register(connection, select.EPOLLIN)
            elif _answer(connections[descriptor]):
                connections.pop(descriptor).close()


def _answer(connection: socket.socket) -> bool:
    """Whether the session is over."""
    try:
        request = connection.recv(1)
        connection.sendall({b"": b"", SEND_MUCH: BULK}.get(request, ANSWER))
    except OSError:
        return True
    if request == RESET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return request != KEEP


@attrs.frozen
class Kind:
    """A way for a session to go. `leave`, if any, is the client's end once it has its answer; else the server's comes."""

    request: bytes
    answer: bytes = ANSWER
    half_closes: bool = False
    leave: Callable[[socket.socket], None] | None = None


KINDS: Final = {
    "the server closes": Kind(CLOSE),
    "the client closes": Kind(KEEP, leave=socket.socket.close),
    "the client half-closes": Kind(KEEP, half_closes=True),
    "the client resets": Kind(KEEP, leave=reset),
    "the server resets": Kind(RESET),
    "the client goes at once": Kind(b"", answer=b"", leave=reset),
    "the answer is long": Kind(SEND_MUCH, answer=BULK),
}


class Visit:
    """One client."""

    def __init__(self, address: tuple[str, int], name: str) -> None:
        self.name = name
        self._kind = KINDS[name]
        self._received = bytearray()
        self.sock = socket.create_connection(address, timeout=SOCKET_S)
        self.sock.sendall(self._kind.request)
        if self._kind.half_closes:
            self.sock.shutdown(socket.SHUT_WR)

    def go_on(self) -> bool:
        """Whether it is over, all as it should be."""
        data = b""
        if self._kind.answer:
            with suppress(ConnectionResetError):
                data = self.sock.recv(1 << 17)
        self._received += data
        leaves = self._kind.leave is not None and len(self._received) == len(self._kind.answer)
        if data and not leaves:
            return False
        assert self._received == self._kind.answer, f"{self.name}: {len(self._received)} bytes"
        (self._kind.leave or socket.socket.close)(self.sock)
        return True
