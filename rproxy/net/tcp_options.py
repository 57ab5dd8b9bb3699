"""TCP options of sockets that Twisted has no method for."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from socket import SocketType
from typing import Final

KEEPALIVE_S: Final = 60
"""Seconds of silence before the first keepalive probe."""
KEEPALIVE_SOON_S: Final = 15
"""The same after `probe_soon`."""
KEEPALIVE_EVERY_S: Final = 15
"""Seconds between keepalive probes that are not answered."""
KEEPALIVE_PROBES: Final = 4
"""Keepalive probes without an answer that end the connection."""
_NO_DELAY: Final = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
_URGENT_IN_LINE: Final = (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, int(getattr(socket, name)), value)
        for name, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_S),
            ("TCP_KEEPINTVL", KEEPALIVE_EVERY_S),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        )
        if hasattr(socket, name)
    ),
)


def prepare_listener(sock: SocketType) -> None:
    """Set what accepted connections inherit: no Nagle, keepalive, urgent data in line. A UNIX socket has none of it."""
    if sock.family != socket.AF_UNIX:
        _set(sock, _NO_DELAY, _URGENT_IN_LINE, *_KEEPALIVE)


def keep_urgent_in_line(sock: SocketType) -> None:
    """Read urgent bytes in line (SO_OOBINLINE), in their place.

    To be set before the socket connects: of two urgent bytes that arrive earlier, the first would be lost.
    """
    sock.setsockopt(*_URGENT_IN_LINE)


def has_urgent_in_line(sock: SocketType) -> bool:
    """Whether urgent bytes are read in line: a sign of a socket accepted from a prepared listener."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE))


def keep_alive(sock: SocketType) -> None:
    """Send keepalive probes to a peer that has been silent for `KEEPALIVE_S`."""
    _set(sock, *_KEEPALIVE)


def probe_soon(sock: SocketType) -> None:
    """From now on, probe the peer after `KEEPALIVE_SOON_S` of silence already, where the system has TCP_KEEPIDLE."""
    if hasattr(socket, "TCP_KEEPIDLE"):
        _set(sock, (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SOON_S))


def reset_on_close(sock: SocketType) -> None:
    """Have `close` reset the connection (SO_LINGER of 0 s): this host keeps nothing of it, not even TIME_WAIT."""
    _set(sock, (socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER))


def _set(sock: SocketType, *options: tuple[int, int, int | bytes]) -> None:
    for option in options:
        with suppress(OSError):  # the kind of socket lacks the option, or the peer is gone already
            sock.setsockopt(*option)


def limit_unacknowledged(sock: socket.socket, seconds: float) -> None:
    """Have the kernel end the connection if the peer acknowledges nothing that it was sent for so long.

    Does nothing where that is unknown (TCP_USER_TIMEOUT is Linux'), and for sockets that are not of TCP.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, round(seconds * 1000))
