"""The splice carrier's sockets, two to a session, and the states that they can be in."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs

from rproxy.carriers.splice.pipes import Pipe
from rproxy.net.addresses import unmapped, written
from rproxy.net.tcp_options import probe_soon
from rproxy.net.tcp_state import has_acknowledged, has_vanished, unsent, waits_for_reader
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session

SIZE: Final = 65536
"""Bytes read at once, and the most that waits outside a pipe for a slow reader."""
ROUNDS: Final = 16
"""Reads in one go; then others have their turn."""

EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET

# A leg's state. Those that last come first: CPython keeps integers up to 256 once for all.
CLIENT: Final = 1
NAGLE: Final = 2
"""A back-end whose TCP_NODELAY is off yet."""
WROTE: Final = 4
"""It has been sent something nevertheless."""
EOF: Final = 8
"""Its stream has been read to the end."""
SHUT: Final = 16
"""It has been sent its peer's end of stream."""
HUNG_UP: Final = 32
"""Its end of stream has arrived, perhaps behind data."""
EARLY: Final = 64
"""A back-end just connected: what is sent to it is kept, for it may end the connection without having taken it."""
READABLE: Final = 128
"""It may have data that has not been read."""
CONNECTING: Final = 256
STALLED: Final = 512
"""It has not taken all that was read for it: see `backlog` and `pipe`."""
BULK: Final = 1024
PLAIN: Final = 2048
"""To be read with recv alone, and until that says it is empty: it has urgent data, or does not splice."""
BROKEN: Final = 4096
"""Its connection is dead; what had arrived before may still be read."""
LISTENING: Final = 8192
HEEDED: Final = 65536
CLOSED: Final = 16384
DYING: Final = 32768
"""Its peer is gone; it is to be reset once it has what was read for it."""
WAITING: Final = 131072
"""A client for which there is no back-end yet."""

RARE: Final = ~(CLIENT | NAGLE | WROTE | SHUT | HUNG_UP | EARLY)
"""A leg with any other bit is not simply to be read from."""
FRESH: Final = NAGLE | EARLY
"""A leg with one of these is not simply to be written to."""
DEAF: Final = CONNECTING | STALLED | BROKEN
_RESET: Final = struct.pack("ii", 1, 0)
NOW: Final = int(socket.MSG_DONTWAIT)
MORE: Final = int(socket.MSG_DONTWAIT | getattr(socket, "MSG_MORE", 0))


class Leg:
    """One of a session's two sockets.

    `count` is how many bytes have been read from it; `backlog` and `pipe` hold what is still to be written to it.
    """

    __slots__ = ("backlog", "count", "peer", "pipe", "session", "sock", "state")

    def __init__(self, sock: socket.SocketType, session: Session, state: int, peer: Leg | None) -> None:
        self.sock = sock
        self.session = session
        self.state = state
        self.peer = peer
        self.count = 0
        self.backlog: bytes | None = None
        self.pipe: Pipe | None = None

    def reset(self) -> None:
        """Let its closing tell the other end that not all is well."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


class ClientLeg(Leg):
    """The leg that was accepted: the `Link` of its session.

    `session` is set by whoever opens it; `cut` ends the session of a leg, as the ending says, with resets.
    """

    __slots__ = ("_cut",)

    def __init__(self, sock: socket.SocketType, cut: Callable[[Leg, Ending], None]) -> None:
        self.sock = sock
        self.state = CLIENT
        self.peer = None
        self.count = 0
        self.backlog = None
        self.pipe = None
        self._cut = cut

    def client_address(self) -> str:
        with suppress(OSError):
            name = self.sock.getpeername()
            return written((unmapped(name[0]), name[1])) if isinstance(name, tuple) else str(name or "UNIX")
        return "gone"

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
        self._cut(self, ending)


@attrs.frozen
class Other:
    """A descriptor of no session: one just closed, of which there may be events yet, or one to be heeded."""

    state: int


GONE: Final = Other(CLOSED)
