"""Very many short sessions between two processes: `serve` is the back-end, `visit` runs the clients.

Programs, because the test's own process would be busier than the proxy: `python -m tests.integration.churn`.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from itertools import cycle, islice
from typing import Final

import attrs

from tests.integration.addresses import LOOPBACK
from tests.integration.polling import SOCKET_S
from tests.integration.sockets import payload, reset

ANSWER: Final = payload(100)
BULK: Final = payload(300_000)

CLOSE: Final = b"c"
"""A client's request, one byte, selects how its session ends. Here the server answers and closes."""
RESET: Final = b"r"
"""The server resets."""
SEND_MUCH: Final = b"b"
"""The server sends a long answer and closes."""
KEEP: Final = b"k"
"""The server waits for the client to close."""


def serve(ports: int) -> None:
    """Serve on so many ports, whose numbers are printed first, until killed."""
    poller = select.epoll()
    listeners: dict[int, socket.socket] = {}
    connections: dict[int, socket.socket] = {}
    for _ in range(ports):
        _add(listeners, socket.create_server((LOOPBACK, 0), backlog=4096), poller)
    print(*(listener.getsockname()[1] for listener in listeners.values()), flush=True)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor in listeners:
                _add(connections, listeners[descriptor].accept()[0], poller)
            elif _answer(connections[descriptor]):
                connections.pop(descriptor).close()


def _add(sockets: dict[int, socket.socket], sock: socket.socket, poller: select.epoll) -> None:
    sockets[sock.fileno()] = sock
    poller.register(sock, select.EPOLLIN)


def _answer(connection: socket.socket) -> bool:
    """Serve one request. Returns whether the session is over."""
    try:
        request = connection.recv(1)
        connection.sendall({b"": b"", SEND_MUCH: BULK}.get(request, ANSWER))
    except OSError:
        return True
    if request == RESET:
        reset(connection)
    return request != KEEP


@attrs.frozen
class Kind:
    """A kind of session. `ends` is how the server must end it; None: the client closes after the answer."""

    request: bytes
    ends: str | None
    leave: Callable[[socket.socket], None] = socket.socket.close
    answer: bytes = ANSWER
    half_closes: bool = False


KINDS: Final = (
    Kind(CLOSE, "end"),
    Kind(KEEP, None),
    Kind(KEEP, "end", half_closes=True),
    Kind(KEEP, None, leave=reset),
    Kind(RESET, "reset"),
    Kind(b"", None, leave=reset, answer=b""),
    Kind(SEND_MUCH, "end", answer=BULK),
)


class Visit:
    """One client."""

    def __init__(self, address: tuple[str, int], kind: Kind) -> None:
        self._kind = kind
        self._received = bytearray()
        self.sock = socket.create_connection(address, timeout=SOCKET_S)
        self.sock.sendall(kind.request)
        if kind.half_closes:
            self.sock.shutdown(socket.SHUT_WR)

    def is_over(self) -> bool:
        """Read what has arrived and check it."""
        kind, end = self._kind, None
        try:
            data = self.sock.recv(1 << 17)
            end = None if data else "end"
        except ConnectionResetError:
            data, end = b"", "reset"
        self._received += data
        if not end and (kind.ends or len(self._received) < len(kind.answer)):
            return False
        assert (end, bytes(self._received)) == (kind.ends, kind.answer), (
            f"{kind}: {end} after {len(self._received)} bytes"
        )
        self.leave()
        return True

    def leave(self) -> None:
        self._kind.leave(self.sock)


def visit(address: tuple[str, int], sessions: int, at_once: int) -> None:
    """Run sessions of all kinds in turn, `at_once` concurrently."""
    poller = select.epoll()
    visits: dict[int, Visit] = {}
    kinds = islice(cycle(KINDS), sessions)
    while True:
        for kind in islice(kinds, at_once - len(visits)):
            one = Visit(address, kind)
            if kind.answer:
                visits[one.sock.fileno()] = one
                poller.register(one.sock, select.EPOLLIN)
            else:
                one.leave()
        if not visits:
            return
        events = poller.poll(SOCKET_S)
        assert events, f"{len(visits)} sessions hang"
        for descriptor, _ in events:
            if visits[descriptor].is_over():
                del visits[descriptor]


def main(what: str, *arguments: str) -> None:
    if what == "serve":
        serve(int(arguments[0]))
    else:
        host, port, sessions, at_once = arguments
        visit((host, int(port)), int(sessions), int(at_once))


if __name__ == "__main__":
    main(*sys.argv[1:])
