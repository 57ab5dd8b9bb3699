"""State of TCP connections from the kernel (TCP_INFO, SIOCOUTQ), which Twisted does not offer."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from socket import SocketType
from typing import Any, Final

import attrs
from twisted.internet.interfaces import ISSLTransport

_RTO_FACTOR: Final = 1.5
"""Retransmission timeouts that an acknowledgement may take: kernel timers are coarse."""
_TIMER_LATE_MS: Final = 100.0
"""A busy machine's timers may be late by this much as well."""
_TCP_CLOSE: Final = 7  # tcpi_state, linux/tcp_states.h
_TCP_INFO: Final = struct.Struct("=3xB4x I 12x I 28x I")
"""tcpi_probes, tcpi_rto (µs), tcpi_unacked (packets), tcpi_last_ack_recv (ms), linux/tcp.h."""
_TCP_INFO_RTT: Final = struct.Struct("=68x I")
"""tcpi_rtt (µs)."""


def rtt_ms(sock: SocketType) -> float | None:
    """The kernel's smoothed round-trip time of a connection, which no pause of this process makes longer; None where
    the system does not tell it.
    """
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        (rtt_us,) = _TCP_INFO_RTT.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_RTT.size))
    except (OSError, struct.error):
        return None
    return rtt_us / 1000 if rtt_us else None


@attrs.frozen
class TcpInfo:
    """How the peer acknowledges data, from TCP_INFO. Linux."""

    probes: int
    """Window probes to a peer with a closed window that it has not answered."""
    rto_ms: float
    """Retransmission timeout, backed off."""
    unacked: int
    """Packets sent and not acknowledged."""
    quiet_ms: int
    """Since the last acknowledgement of anything, even one that says that the window is closed."""

    @classmethod
    def of(cls, sock: SocketType) -> TcpInfo | None:
        """None where the system or the kind of socket does not provide TCP_INFO."""
        if sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
            return None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            probes, rto_us, unacked, quiet_ms = _TCP_INFO.unpack(info)
        except (OSError, struct.error):
            return None
        return cls(probes, rto_us / 1000, unacked, quiet_ms)


def unsent(sock: SocketType) -> int:
    """Bytes that the kernel still holds for the peer, sent or not, since it has not acknowledged them; 0 if unknown."""
    try:
        (held,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))
    except OSError:
        return 0
    return int(held)


def waits_for_reader(sock: SocketType) -> bool:
    """Whether the peer is alive and does not read, and its receive window holds up our bytes.

    True as well if there are such bytes and `TcpInfo` is unknown.
    """
    if not unsent(sock):
        return False
    tcp_info = TcpInfo.of(sock)
    if tcp_info is None:
        return True
    if tcp_info.unacked:  # a peer short of memory may drop packets, but acknowledges
        return tcp_info.quiet_ms <= _RTO_FACTOR * tcp_info.rto_ms + _TIMER_LATE_MS
    return tcp_info.probes <= 1


def has_vanished(sock: SocketType, after_s: float) -> bool:
    """Whether the peer has acknowledged nothing for `after_s` seconds, although packets or window probes were sent."""
    if not unsent(sock):
        return False
    tcp_info = TcpInfo.of(sock)
    if tcp_info is None or tcp_info.quiet_ms < 1000 * after_s:
        return False
    return tcp_info.unacked > 0 or tcp_info.probes > 1


def has_acknowledged(sock: SocketType, within_s: float) -> bool:
    """Whether the peer has acknowledged anything, keepalive probes included, in the last `within_s` seconds."""
    tcp_info = TcpInfo.of(sock)
    return tcp_info is not None and tcp_info.quiet_ms <= 1000 * within_s


def is_closed(sock: SocketType) -> bool:
    """Whether the connection is over in both directions, by a reset or a timeout. Linux; False where unknown.

    It is unknown of MPTCP, whose TCP_INFO has the state of the first path only: the connection may go on without it.
    """
    if sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        closed = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
        return closed and protocol_of(sock) == socket.IPPROTO_TCP
    except OSError as error:  # other kinds of sockets have no TCP_INFO
        return error.errno == errno.EBADF


def is_self_connected(sock: SocketType, host: str, port: int) -> bool:
    """Whether a socket that has connected to this address is its own peer (TCP's simultaneous open).

    It happens where no process listens on a port of this host, and the kernel chose that very port for the socket.
    """
    return bool(sock.getsockname()[:2] == (host, port))


def protocol_of(sock: SocketType) -> int:
    """The protocol by the kernel's account (SO_PROTOCOL): Python does not know that of an inherited socket.

    0 where the system has no such option. MPTCP, for one, lacks some of TCP's options.
    """
    with suppress(OSError):
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    return 0


def below_tls(transport: object) -> Any:
    """The transport that a TLS transport writes to; any other one as it is."""
    while ISSLTransport.providedBy(transport):
        transport = getattr(transport, "transport", None)
    return transport


def socket_of(transport: object) -> socket.socket | None:
    """A Twisted transport's own socket, below TLS if need be; None where there is none."""
    handle = getattr(below_tls(transport), "getHandle", lambda: None)()
    return handle if isinstance(handle, socket.socket) else None


def unacknowledged(transport: object) -> int:
    """`unsent` of a transport's socket."""
    handle = socket_of(transport)
    return 0 if handle is None else unsent(handle)


def was_reset(transport: object) -> bool:
    """`is_closed` of a transport's socket: a transport that is paused does not notice a reset."""
    handle = socket_of(transport)
    return handle is not None and is_closed(handle)


def is_broken(transport: object) -> bool:
    """Whether an error is pending on a transport's socket (SO_ERROR, which this clears).

    Twisted's epoll reactor takes an error event without readable data for a clean end of stream: half a response
    would look complete.
    """
    handle = socket_of(transport)
    if handle is None:
        return False
    try:
        return handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    except OSError:
        return True
