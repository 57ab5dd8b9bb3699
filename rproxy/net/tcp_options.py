"""What the kernel knows of a connection, or is to be told of it, and Twisted has no method for."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from socket import SocketType
from typing import Final

import attrs
from twisted.internet.interfaces import ISSLTransport

KEEPALIVE_S: Final = 60
"""Seconds of silence after which a peer is asked whether it is still there."""
ASKED_S: Final = 15
"""The same where there is reason to ask."""
KEEPALIVE_EVERY_S: Final = 15
KEEPALIVE_PROBES: Final = 4
"""Questions without an answer that end the connection, and the seconds between them."""
_AT_ONCE: Final = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
_IN_LINE: Final = (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
_ALIVE: Final = (
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
_LATE: Final = 1.5
"""How many times later than at first a repeated packet may be answered: what it waits for is coarse."""
_TCP_CLOSE: Final = 7  # tcpi_state, linux/tcp_states.h
_TCP_INFO: Final = struct.Struct("=3xB4x I 12x I 28x I")
"""tcpi_probes, tcpi_rto (µs), tcpi_unacked (packets), tcpi_last_ack_recv (ms), linux/tcp.h."""


def prepare_listener(sock: SocketType) -> None:
    """Set what the connections that it accepts inherit: no Nagle, keepalive, urgent data in line."""
    if sock.family != socket.AF_UNIX:
        _set(sock, _AT_ONCE, _IN_LINE, *_ALIVE)


def keep_urgent_in_line(sock: SocketType) -> None:
    """Before there is a connection: an urgent byte that arrives earlier than this may be lost with the next one."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def has_urgent_in_line(sock: SocketType) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE))


def keep_alive(sock: SocketType) -> None:
    """Find out about a peer that has vanished from a connection on which nothing is sent."""
    _set(sock, *_ALIVE)


def ask_soon(sock: SocketType) -> None:
    """Have the peer asked within `ASKED_S`, and as often from then on, whether it is there."""
    if hasattr(socket, "TCP_KEEPIDLE"):
        _set(sock, (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ASKED_S))


def _set(sock: SocketType, *options: tuple[int, int, int]) -> None:
    for option in options:
        with suppress(OSError):  # an option that this kind of socket lacks, or the peer is gone already
            sock.setsockopt(*option)


def socket_of(transport: object) -> socket.socket | None:
    """The transport's own socket, below TLS if need be; None where there is none."""
    while ISSLTransport.providedBy(transport):
        transport = getattr(transport, "transport", None)
    handle = getattr(transport, "getHandle", lambda: None)()
    return handle if isinstance(handle, socket.socket) else None


def unacknowledged(transport: object) -> int:
    """Bytes that the kernel still holds for the transport's peer; 0 where that cannot be known."""
    handle = socket_of(transport)
    return 0 if handle is None else unsent(handle)


def unsent(sock: SocketType) -> int:
    """Bytes that the kernel still holds for the socket's peer."""
    try:
        (held,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))
    except OSError:
        return 0
    return int(held)


def met_itself(sock: SocketType, host: str, port: int) -> bool:
    """Whether a socket that has connected there is its own peer, nobody being there (TCP's simultaneous open)."""
    return bool(sock.getsockname()[:2] == (host, port))


@attrs.frozen
class Delivery:
    """How the peer takes what is sent to it. Linux."""

    probes: int
    """Questions to a peer with a closed window that it has not answered."""
    rto_ms: float
    """When the next packet will be sent again."""
    unacked: int
    """Packets on their way."""
    quiet_ms: int
    """Since anything was acknowledged, were it only that the window is closed."""

    @classmethod
    def of(cls, sock: SocketType) -> Delivery | None:
        if sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
            return None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            probes, rto_us, unacked, quiet_ms = _TCP_INFO.unpack(info)
        except (OSError, struct.error):
            return None
        return cls(probes, rto_us / 1000, unacked, quiet_ms)


def waits_for_reader(sock: SocketType) -> bool:
    """Whether the peer is there, and does not read: its window is what holds bytes of ours."""
    if not unsent(sock):
        return False
    delivery = Delivery.of(sock)
    if delivery is None:
        return True
    if delivery.unacked:  # it may still drop what it has no memory for, but says so
        return delivery.quiet_ms <= _LATE * delivery.rto_ms
    return delivery.probes <= 1


def has_vanished(sock: SocketType, after_s: float) -> bool:
    """Whether the peer has said nothing for so long, although it was sent something, or asked for its window."""
    if not unsent(sock):
        return False
    delivery = Delivery.of(sock)
    if delivery is None or delivery.quiet_ms < 1000 * after_s:
        return False
    return delivery.unacked > 0 or delivery.probes > 1


def is_heard(sock: SocketType, within_s: float) -> bool:
    """Whether the peer has acknowledged anything in so many seconds."""
    delivery = Delivery.of(sock)
    return delivery is not None and delivery.quiet_ms <= 1000 * within_s


def was_reset(transport: object) -> bool:
    """Whether the connection is dead by the peer's reset, which a transport that does not read cannot see. Linux."""
    handle = socket_of(transport)
    return handle is not None and is_closed(handle)


def protocol_of(sock: SocketType) -> int:
    """The kernel's word: an inherited socket's object does not know. MPTCP, for one, lacks some of TCP's options."""
    with suppress(OSError):
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    return 0


def is_closed(sock: SocketType) -> bool:
    """Whether the socket's connection is over for both ends, by a reset or a timeout. Linux.

    Of MPTCP's connections this is not known: what the kernel tells is the state of their first path, and they go on
    when that is gone.
    """
    if sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        closed = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
        return closed and protocol_of(sock) == socket.IPPROTO_TCP
    except OSError as error:  # kinds of sockets other than TCP's do not tell
        return error.errno == errno.EBADF


def is_broken(transport: object) -> bool:
    """Whether an error waits on the transport's socket.

    Twisted's epoll reactor takes an error event that comes without readable data for a clean end of stream: half a
    response would look like the whole.
    """
    handle = socket_of(transport)
    if handle is None:
        return False
    try:
        return handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    except OSError:
        return True
