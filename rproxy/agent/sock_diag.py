"""Listening sockets and their accept queues, from the kernel's sock_diag(7), which ss(8) reads as well. Linux only.

It costs a few microseconds, where reading /proc/net/tcp costs milliseconds on an idle host: that walks through the
table of established connections to find the first of them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import attrs

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_REQUEST: Final = 0x001
_DUMP: Final = 0x300
_ERROR: Final = 2
_DONE: Final = 3
_LISTEN_STATE: Final = 1 << 10
_ANSWER_MAX: Final = 1 << 15
"""Bytes read at once: netlink_dump of the kernel makes no part of an answer longer."""

# Structures of linux/netlink.h and linux/inet_diag.h, in host byte order but for the port.
_HEADER: Final = struct.Struct("=IHHII")
_SELECTOR: Final = struct.Struct("=BBBxI")
"""Beginning of inet_diag_req_v2: family, protocol, extensions, states. The socket's identity follows."""
_ID_SIZE: Final = 48
"""Bytes of inet_diag_sockid: ports, addresses, interface, cookie."""
_ID_OF_PORT: Final = struct.Struct(f"!H{_ID_SIZE - 2}x")
_ID_AT: Final = _HEADER.size + 4
"""Offset of the identity in an answer, after the header and the family, state, timer and retransmissions."""
_QUEUE: Final = struct.Struct("=4xII")
_QUEUE_AT: Final = _ID_AT + _ID_SIZE
"""Offset of idiag_expires, which idiag_rqueue and idiag_wqueue follow: of a listening socket, the number of connections
in its accept queue, and the backlog that the kernel granted.
"""
_ONE: Final = struct.Struct(f"=IH{_QUEUE_AT - 6}x4xII")
"""An answer about one socket: the length and type of its header, and the queue as `_QUEUE`."""
_ERRNO: Final = struct.Struct("=i")
"""Beginning of nlmsgerr, negative."""
_MESSAGE_MIN: Final = _QUEUE_AT + _QUEUE.size
_COOKIE_SIZE: Final = 8


@attrs.frozen
class Listener:
    """A listening socket: the IP address it is bound to, and the number of connections in its accept queue.

    `backlog` is what the queue may hold, None if unknown. `query` asks for this socket again, and for no other one: its
    identity includes a cookie. /proc/net/tcp has neither.
    """

    host: str
    queued: int
    backlog: int | None = None
    query: bytes = attrs.field(default=b"", kw_only=True)

    @property
    def place(self) -> bytes:
        """What the `query` has in common with those of the other sockets of its SO_REUSEPORT group, if it has one."""
        return self.query[:-_COOKIE_SIZE]

    @property
    def is_wildcard(self) -> bool:
        """Whether it is bound to every address, of one family or of both."""
        return ip_address(self.host).is_unspecified

    def may_accept(self, address: str) -> bool:
        """Whether it may accept connections to a local address. Whether a wildcard IPv6 socket is dual is unknown."""
        return self.host == address or (self.is_wildcard and (":" in self.host or ":" not in address))


class SockDiag:
    """A netlink socket, open from the first question until `close`, or until one fails. Every question is one or two
    system calls, neither of which blocks. All raise `OSError`: also if the kernel does not answer as expected.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._answer = bytearray(_ANSWER_MAX)

    def close(self) -> None:
        """May be called at any time."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def listening(self, port: int) -> list[Listener]:
        """The sockets that listen on a TCP port, of both families.

        Costs more the more memory the host has: the kernel's table of listening sockets has a place for every 2 MB, up
        to 65,536.
        """
        found: list[Listener] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _request(family, _ID_OF_PORT.pack(port), _DUMP)
            size = self._ask(request)
            while self._take(size, family, found):
                size = self._receive()
        return found

    def queue(self, query: bytes) -> tuple[int, int]:
        """The length of that socket's accept queue, and its backlog. Fails if the socket has closed.

        Of sockets of one `place`, only one is found.
        """
        size = self._ask(query)
        length, kind, queued, backlog = _ONE.unpack_from(self._answer)
        if kind != _SOCK_DIAG_BY_FAMILY or not _MESSAGE_MIN <= length <= size:
            self._message_end(0, size)
        return queued, backlog

    def _ask(self, request: bytes) -> int:
        """Ask, and return the size of the answer, or of its first part."""
        if self._socket is None:
            self._socket = _open()
        try:
            self._socket.send(request)
            return self._socket.recv_into(self._answer)
        except OSError:
            self.close()
            raise

    def _receive(self) -> int:
        """The size of the next part of an answer."""
        assert self._socket is not None
        try:
            return self._socket.recv_into(self._answer)
        except OSError:
            self.close()
            raise

    def _take(self, size: int, family: int, found: list[Listener]) -> bool:
        """Add the sockets in a part of an answer. Returns whether another part follows."""
        at = 0
        while at < size:
            if _HEADER.unpack_from(self._answer, at)[1] == _DONE:
                return False
            end = self._message_end(at, size)
            identity = bytes(self._answer[at + _ID_AT : at + _QUEUE_AT])
            queued, backlog = _QUEUE.unpack_from(self._answer, at + _QUEUE_AT)
            query = _request(family, identity)
            found.append(Listener(_host(family, identity), queued, backlog, query=query))
            at = (end + 3) & ~3
        return True

    def _message_end(self, at: int, size: int) -> int:
        """Where the message ends that begins at `at`. Raises `OSError` if it is none about a socket.

        The netlink socket closes then, so that no answer is left that would be taken for one to the next question.
        """
        length, kind, *_ = _HEADER.unpack_from(self._answer, at)
        if kind == _SOCK_DIAG_BY_FAMILY and _MESSAGE_MIN <= length <= size - at:
            return at + int(length)
        self.close()
        (number,) = _ERRNO.unpack_from(self._answer, at + _HEADER.size) if kind == _ERROR else (-errno.EPROTO,)
        raise OSError(-number, os.strerror(-number))


def _open() -> socket.socket:
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)


def _request(family: int, identity: bytes, flags: int = 0) -> bytes:
    body = _SELECTOR.pack(family, socket.IPPROTO_TCP, 0, _LISTEN_STATE) + identity
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST | flags, 0, 0) + body


def _host(family: int, identity: bytes) -> str:
    """The address that a socket is bound to, in text; an IPv4-mapped one becomes plain IPv4."""
    if family == socket.AF_INET:
        return str(IPv4Address(identity[4:8]))
    ip = IPv6Address(identity[4:20])
    return str(ip.ipv4_mapped or ip)
