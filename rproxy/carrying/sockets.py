"""What the kernel knows of a connection, and Twisted, where it has the transport, does not tell."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from socket import SocketType
from typing import Final

from twisted.internet.interfaces import ISSLTransport

_TCP_CLOSE: Final = 7  # tcpi_state, linux/tcp_states.h


def socket_of(transport: object) -> socket.socket | None:
    """The transport's own socket, below TLS if need be; None where there is none."""
    if ISSLTransport.providedBy(transport):
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


def was_reset(transport: object) -> bool:
    """Whether the connection is dead by the peer's reset, which a transport that does not read cannot see. Linux."""
    handle = socket_of(transport)
    if handle is None or handle.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    except OSError:
        return True


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
