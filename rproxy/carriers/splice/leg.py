"""What a descriptor of the splice carrier stands for: one of the two sockets of a session, or a listening socket."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

import attrs

from rproxy.carriers.splice.pipes import Pipe, Pipes
from rproxy.carriers.splice.states import CLIENT, CLOSED, LISTENING, STALLED, describe
from rproxy.net.addresses import Address, unmapped, written, written_unix
from rproxy.net.tcp_options import probe_soon
from rproxy.net.tcp_state import has_acknowledged, has_vanished, unsent, waits_for_reader
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session

EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
"""Every leg is registered once, for all events, edge-triggered."""
_RESET: Final = struct.pack("ii", 1, 0)
"""struct linger: close(2) sends a reset."""

PeerAddress = tuple[Any, ...] | str | bytes
"""What accept(2) returns: host, port and, for IPv6, two numbers; or the name of a Unix socket, bytes if abstract."""


class Leg:
    """One of a session's two sockets. `peer` is the other one, `state` bits of `states`."""

    __slots__ = ("backlog", "count", "peer", "pipe", "session", "sock", "state")

    def __init__(self, sock: socket.SocketType, session: Session, state: int, peer: Leg | None) -> None:
        self.sock = sock
        self.session = session
        self.peer = peer
        self.count = 0
        """Bytes read from its socket."""
        self.backlog: bytes | None = None
        """Data read for it that its socket has not accepted yet."""
        self.pipe: Pipe | None = None
        """Holds the data spliced for it, which follows the backlog."""
        self.state = state

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.sock.fileno()} {describe(self.state)}, {self.count} bytes read>"

    def reset_on_close(self) -> None:
        """Have the close of its socket send a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def discard_unsent(self, pipes: Pipes) -> None:
        """Drop what was still to be written to it."""
        self.state &= ~STALLED
        self.backlog = None
        if self.pipe is not None:
            pipes.release(self.pipe)
            self.pipe = None


class ClientLeg(Leg):
    """The accepted leg, which is its session's `Link`. The caller of the constructor sets `session`.

    `address` is the client's, as accept(2) returned it: the kernel forgets it when the connection ends. `end` ends the
    session at once, with resets.
    """

    __slots__ = ("_address", "_end")

    def __init__(self, sock: socket.SocketType, address: PeerAddress, end: Callable[[Leg, Ending], None]) -> None:
        self.sock = sock
        self.peer = None
        self.count = 0
        self.backlog = None
        self.pipe = None
        self.state = CLIENT
        self._address: PeerAddress = address
        self._end = end

    def client_address(self) -> str:
        address = self._address
        if len(address) == 2 and isinstance(address, tuple) and self.session.header is None:  # IPv4, for access logs
            return f"{address[0]}:{address[1]}"
        client = self.client()
        if client is not None:
            return written(client)
        assert not isinstance(self._address, tuple)
        return written_unix(self._address)

    def client(self) -> Address | None:
        header = self.session.header
        return self.peer_address() if header is None or header.source is None else header.source

    def peer_address(self) -> Address | None:
        return _of_ip(self._address)

    def destination(self) -> Address | None:
        return _of_ip(self.sock.getsockname())

    def carried(self) -> tuple[int, int]:
        return self.count, 0 if self.peer is None else self.peer.count

    def unsent(self) -> int:
        return unsent(self.sock) + (0 if self.peer is None else unsent(self.peer.sock))

    def waits_for_reader(self) -> bool:
        return waits_for_reader(self.sock) or (self.peer is not None and waits_for_reader(self.peer.sock))

    def has_vanished(self, after_s: float) -> bool:
        return has_vanished(self.sock, after_s) or (self.peer is not None and has_vanished(self.peer.sock, after_s))

    def probe_backend(self) -> None:
        if self.peer is not None:
            probe_soon(self.peer.sock)

    def backend_heard(self, within_s: float) -> bool:
        return self.peer is not None and has_acknowledged(self.peer.sock, within_s)

    def cut(self, ending: Ending) -> None:
        self._end(self, ending)


def _of_ip(address: PeerAddress) -> Address | None:
    """The IP address and port in a socket's address; None if it has none."""
    if not isinstance(address, tuple):
        return None
    return (address[0], address[1]) if len(address) == 2 else (unmapped(address[0]), address[1])


class Listener:
    """A listening socket with its service and name."""

    state = LISTENING
    events = select.EPOLLIN

    def __init__(self, sock: socket.socket, service: Service, name: str) -> None:
        self.sock = sock
        self.service = service
        self.name = name
        self.family = int(sock.family)
        self.accept = sock._accept  # type: ignore[attr-defined]  # returns the descriptor, without a socket object
        self.batch = 1
        """Most clients accepted for the next event. Grows while clients queue; a lone one costs no second accept(2)."""


@attrs.frozen
class Other:
    """A descriptor that is neither a leg nor a listener: `state` is CLOSED or WATCHED."""

    state: int


CLOSED_SLOT: Final = Other(CLOSED)
"""Entry of unused descriptors in the table. The batch may hold further events of a socket just closed."""
