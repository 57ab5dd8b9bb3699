"""A transfer between two real connections, driven by hand."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.carriers.splice.endings import LegTable
from rproxy.carriers.splice.leg import EVENTS, ClientLeg, Leg
from rproxy.carriers.splice.pipes import Pipes
from rproxy.carriers.splice.states import CLOSED, HUNG_UP, READABLE, STALLED, UNSPLICEABLE
from rproxy.carriers.splice.transfer import DONTWAIT, Transfer
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from tests.carriers.loopback import SMALL, WAIT_S, tcp_pair, wait_for
from tests.fakes import pool_with


class MeteredSocket(socket.socket):
    """Reads at most `at_most` bytes at once, and counts the reads."""

    reads = 0
    at_most = 1 << 30

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self.reads += 1
        return super().recv_into(buffer, min(nbytes, self.at_most), flags)


def leg_table(pipes: Pipes) -> LegTable:
    return LegTable(Capacity(100, Clock().seconds), pipes, Clock().seconds, lambda: None)


class Moving:
    """Two legs, `client` and `backend`, and the other ends of their connections; `reported` has the callbacks made.

    A side named in `small` has small buffers.
    """

    def __init__(self, stack: ExitStack, *, pipes: int = 4, small: str = "") -> None:
        self.epoll = stack.enter_context(select.epoll())
        self.pipes = Pipes(pipes)
        stack.callback(self.pipes.close)
        self.transfer = Transfer(
            self.epoll,
            self.pipes,
            finished=self._finished,
            failed=self._failed,
            undelivered=self._undelivered,
            redispatched=lambda leg: False,
        )
        self.reported: list[tuple[str, Leg]] = []
        service = Service(pool_with(1), Clock())
        sock, self.client_end = self._connection(stack, SMALL if "client" in small else None)
        self.client = ClientLeg(sock, self.client_end.getsockname(), leg_table(self.pipes).cut)
        self.client.session = self.session = Session(service, self.client)
        sock, self.backend_end = self._connection(stack, SMALL if "backend" in small else None)
        self.backend = Leg(sock, self.session, 0, self.client)
        self.client.peer = self.backend
        stack.callback(self._drop)

    def _connection(self, stack: ExitStack, buffer: int | None) -> tuple[MeteredSocket, socket.socket]:
        near, far = stack.enter_context(tcp_pair(buffer=buffer))
        sock = stack.enter_context(MeteredSocket(fileno=os.dup(near.fileno())))
        near.close()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.epoll.register(sock.fileno(), EVENTS)
        return sock, far

    def _drop(self) -> None:
        for leg in (self.client, self.backend):
            leg.discard_unsent(self.pipes)

    def _finished(self, leg: Leg) -> None:
        self.reported.append(("finished", leg))
        self._close(self.client, self.backend)

    def _failed(self, leg: Leg) -> None:
        self.reported.append(("failed", leg))
        if leg.peer is not None:
            leg.peer.peer = None
        self._close(leg)

    def _undelivered(self, leg: Leg) -> None:
        self.reported.append(("undelivered", leg))

    def _close(self, *legs: Leg) -> None:
        for leg in legs:
            leg.discard_unsent(self.pipes)
            leg.state = CLOSED
            leg.peer = None
            leg.sock.close()

    def arrived(self, source: Leg, extra: int = 0) -> None:
        """Wait for an event of `source`, and pump it; `extra` are further bits of its state."""
        assert isinstance(source.sock, socket.socket)
        wait_for(source.sock, select.POLLRDHUP if extra & HUNG_UP else select.POLLIN | select.POLLPRI)
        source.state |= READABLE | extra
        self.transfer.pump(source)

    def events(self) -> dict[int, int]:
        """The events that epoll reports now, by descriptor."""
        return dict(self.epoll.poll(0))

    def metered(self, leg: Leg) -> MeteredSocket:
        assert isinstance(leg.sock, MeteredSocket)
        return leg.sock

    def carry(self, source: Leg, done: Callable[[bytes], bool]) -> bytes:
        """Serve the events of `source`, and read at the other end, until `done` says so of what was received."""
        target, end = (self.backend, self.backend_end) if source is self.client else (self.client, self.client_end)
        poll = select.poll()
        poll.register(end, select.POLLIN)
        poll.register(self.epoll, select.POLLIN)
        received = bytearray()
        deadline = time.monotonic() + WAIT_S
        while not done(bytes(received)):
            assert time.monotonic() < deadline, "not done"
            poll.poll(20)
            received += drained(end)
            event = self.events().get(source.sock.fileno(), 0)
            if event & (select.EPOLLIN | select.EPOLLPRI):
                source.state |= READABLE | UNSPLICEABLE if event & select.EPOLLPRI else READABLE
            if target.state & STALLED:
                self.transfer.flush(target)
            elif source.state & READABLE:
                self.transfer.pump(source)
        return bytes(received)


def drained(sock: socket.socket) -> bytes:
    """The data that has arrived, without waiting."""
    data = bytearray()
    try:
        while piece := sock.recv(1 << 20, DONTWAIT):
            data += piece
    except BlockingIOError:
        pass
    return bytes(data)


def has_ended(sock: socket.socket) -> bool:
    """Whether the end of stream has arrived, and no data is left before it."""
    try:
        return sock.recv(1, DONTWAIT) == b""
    except BlockingIOError:
        return False


class Splices:
    """Replaces `os.splice`: counts the calls, and passes them on, with at most `at_most` bytes each.

    `results` are what reads of sockets give instead, in order; a number is returned, an exception raised.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_most = 1 << 30
        self.counts: list[int] = []
        self.results: list[int | OSError] = []
        self.write_errors: list[OSError] = []
        self.reads = 0
        self._splice = os.splice
        monkeypatch.setattr(os, "splice", self)

    def __call__(self, source: int, target: int, count: int, *, flags: int) -> int:
        self.counts.append(count)
        if is_pipe(source):
            if self.write_errors:
                raise self.write_errors.pop(0)
            return self._splice(source, target, count, flags=flags)
        self.reads += 1
        if self.results:
            result = self.results.pop(0)
            if isinstance(result, OSError):
                raise result
            return result
        return self._splice(source, target, min(count, self.at_most), flags=flags)


def is_pipe(descriptor: int) -> bool:
    return os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
