"""Listening ports of Twisted's, read by a carrier of its own."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import Final

from rproxy.carriers.splice.leg import LISTENING
from rproxy.net.tcp_options import prepare_listener
from rproxy.net.tcp_state import protocol_of
from rproxy.sessions.capacity import Capacity

ACCEPTS_MAX: Final = 64
"""Clients accepted in one go."""
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})


class Listener:
    """One port's socket. `batch` grows while clients queue, so that a lone one costs no second look at the queue."""

    state = LISTENING
    events = select.EPOLLIN

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.family = int(sock.family)
        self.accept = sock._accept  # type: ignore[attr-defined]  # the descriptor alone, and no socket object
        self.batch = 1


def takeable(port: object, factory: object) -> socket.socket | None:
    """The socket of a Twisted port that speaks to `factory` without a layer between, such as TLS; else None."""
    sock = getattr(port, "socket", None)
    if getattr(port, "factory", None) is not factory or not isinstance(sock, socket.socket):
        return None
    if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
        return None
    return sock if sock.family == socket.AF_UNIX or protocol_of(sock) == socket.IPPROTO_TCP else None


class Listeners:
    """Accepts as long as there is room; the clients of a paused listener wait in its queue.

    `opened` gets the family and the descriptor of every client. After an error that only time mends, `wake` asks for
    a `resume_if_room` soon.
    """

    def __init__(
        self, epoll: select.epoll, capacity: Capacity, *, opened: Callable[[int, int], None], wake: Callable[[], None]
    ) -> None:
        self._epoll = epoll
        self._capacity = capacity
        self._opened = opened
        self._wake = wake
        self.paused: list[Listener] = []

    def add(self, sock: socket.socket) -> Listener:
        prepare_listener(sock)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # inherited, too: the first ACK is the answer's
        return Listener(sock)

    def accept(self, listener: Listener) -> None:
        capacity, opened = self._capacity, self._opened
        for _ in range(listener.batch):
            if capacity.sessions >= capacity.sessions_max:
                self._pause(listener)
                capacity.wait(self._resume)
                return
            try:
                descriptor, _ = listener.accept()
            except BlockingIOError:
                listener.batch = 1
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause(listener)
                    self._wake()
                return
            opened(listener.family, descriptor)
        listener.batch = min(2 * listener.batch, ACCEPTS_MAX)

    def _pause(self, listener: Listener) -> None:
        self._epoll.modify(listener.sock.fileno(), 0)
        self.paused.append(listener)

    def resume_if_room(self) -> None:
        if self.paused and not self._capacity.full:
            self._resume()

    def _resume(self) -> None:
        paused, self.paused = self.paused, []
        for listener in paused:
            if listener.sock.fileno() >= 0:
                self._epoll.modify(listener.sock.fileno(), listener.events)
