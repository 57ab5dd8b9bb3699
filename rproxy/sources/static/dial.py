"""One connection of a check: it connects, reads a line if it is to, and is reset."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from errno import ECONNREFUSED, ECONNRESET, EINPROGRESS
from socket import SocketType
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.net.addresses import Address, plain
from rproxy.net.outgoing import LOCAL_ERRORS
from rproxy.net.tcp_options import reset_on_close
from rproxy.net.tcp_state import is_self_connected, rtt_ms
from rproxy.timing.wheel import Wheel
from rproxy.wire.agent_check import LINE_MAX, Incomplete, line_of
from rproxy.wire.proxy_header import encode_check

TIMEOUT_S: Final = 1.5
"""For everything: long enough for a SYN that is sent again after a second, and over before the next check is due."""
_CHUNK: Final = LINE_MAX + 1
_ANSWERS: Final = frozenset({ECONNREFUSED, ECONNRESET})
"""Errors with which a host answers."""


Connect = Callable[[SocketType, Address], int]
"""Begins to connect a non-blocking socket, and returns what connect(2) would."""


def connect(sock: SocketType, remote: Address) -> int:
    """From the address that routing chooses."""
    return sock.connect_ex(remote)


@attrs.frozen
class Outcome:
    """How a check went."""

    failure: str = ""
    """Why it failed, in a few words; empty if it did not."""
    answered: bool = False
    """Whether the host has answered, if only by a refusal."""
    is_local: bool = False
    """Whether it failed by this host's own fault, so that it says nothing."""
    is_silent: bool = False
    """Whether it has taken all its time."""
    rtt_ms: float | None = None
    """Round-trip time of the connect."""
    line: str = ""
    """What was read."""


@implementer(IReadWriteDescriptor)
class Dial:
    """Connects to `address`, and calls `done` once, with the outcome: at once if that is known, after `TIMEOUT_S` at
    the latest, and never once it was cancelled.

    `send_proxy` is the version of the PROXY header that it sends, 0 for none. If it `reads`, the outcome has the line
    that comes.
    """

    def __init__(
        self,
        reactor: Any,
        wheel: Wheel,
        address: Address,
        done: Callable[[Outcome], None],
        *,
        send_proxy: int = 0,
        reads: bool = False,
        connect: Connect = connect,
    ) -> None:
        self._reactor = reactor
        self._wheel = wheel
        self._address = address
        self._done = done
        self._send_proxy = send_proxy
        self._reads = reads
        self._connect = connect
        self.lane = 0
        """See `Dials`."""
        self._socket: socket.socket | None = None
        self._started_at = 0.0
        self._rtt_ms: float | None = None
        """Set once it is connected."""
        self._received = b""

    def start(self) -> None:
        """Connect. Called once."""
        self._started_at = self._reactor.seconds()
        self._wheel.arm(self, TIMEOUT_S, self._time_is_up)
        try:
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            error = self._connect(self._socket, self._address)
            if not error or error == EINPROGRESS:
                self._reactor.addWriter(self)
                return
        except OSError as failure:
            error = failure.errno or errno.EINVAL
        self._fail(error)

    def cancel(self) -> None:
        """Close it; `done` will not be called. May come after it was."""
        self._wheel.disarm(self)
        sock = self._socket
        if sock is None:
            return
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        self._socket = None
        reset_on_close(sock)
        sock.close()

    # As `IReadWriteDescriptor`.

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        return "check"

    def doWrite(self) -> None:
        """The connect has succeeded or failed."""
        sock = self._socket
        if sock is None or self._rtt_ms is not None:
            return
        self._reactor.removeWriter(self)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error and is_self_connected(sock, *self._address):
            error = ECONNREFUSED
        if error:
            self._fail(error)
            return
        self._rtt_ms = rtt_ms(sock) or (self._reactor.seconds() - self._started_at) * 1000
        try:
            if self._send_proxy:  # a buffer that is still empty takes it all
                sock.send(encode_check(self._send_proxy, plain(sock.getsockname()), self._address))
        except OSError as failure:
            self._fail(failure.errno)
            return
        if self._reads:
            self._reactor.addReader(self)
        else:
            self._finish(Outcome(answered=True, rtt_ms=self._rtt_ms))

    def doRead(self) -> None:
        """More of the line has come."""
        if self._socket is None:
            return
        try:
            received = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as failure:
            self._fail(failure.errno)
            return
        self._received += received
        try:
            line = line_of(self._received, ended=not received)
        except Incomplete as error:
            self._finish(Outcome(str(error), answered=True))
            return
        if line is not None:
            self._finish(Outcome(answered=True, rtt_ms=self._rtt_ms, line=line))

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has found the connection broken, and does not call the other methods for that."""
        if self._socket is not None:
            if self._rtt_ms is None:
                self._fail(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or ECONNRESET)
            else:
                self.doRead()
        if self._socket is not None:
            self._fail(ECONNRESET)

    def _time_is_up(self) -> None:
        """After a stall of this process, what has come meanwhile may not have been read yet."""
        sock = self._socket
        if sock is not None and self._rtt_ms is None and _is_connected(sock):
            self.doWrite()
        if self._socket is not None and self._rtt_ms is not None:
            self.doRead()
        if self._socket is not None:
            what = "no connection" if self._rtt_ms is None else "no line"
            self._finish(Outcome(f"{what} in {TIMEOUT_S:g} s", answered=self._rtt_ms is not None, is_silent=True))

    def _fail(self, error: int | None) -> None:
        number = error or errno.EINVAL
        self._finish(Outcome(os.strerror(number), answered=number in _ANSWERS, is_local=number in LOCAL_ERRORS))

    def _finish(self, outcome: Outcome) -> None:
        self.cancel()
        self._done(outcome)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
