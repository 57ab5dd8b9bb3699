"""The clients of a run, whose work is due at fixed times whatever the answers take.

A line of standard input has the plan as JSON: `start` (monotonic clock), `sessions` (see `schedule.Session`),
`proxies` (their addresses), `patience_s` (how long it waits for answers after the last event). Prints JSON: for each
piece of work when it was due, its response time in s, or null if it was not answered, and the name of the host that
answered; and for each of them how late this client was, in s.
"""

from __future__ import annotations

import errno
import gc
import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs

from rproxy.net.addresses import Address
from tests.benchmarks.hosts.schedule import Session

TIMER_SLACK_NS: Final = 1000
LINES_MAX: Final = 65536
_OPEN, _ASK, _CLOSE = range(3)
"""Kinds of events, in their order at one time."""


@attrs.define(eq=False)
class Connection:
    """A session that is open."""

    socket: socket.socket
    closes_s: float
    unsent: bytes = b""
    """What waits for the connection to be made."""
    connected: bool = False
    partial: bytes = b""
    """The beginning of a line."""
    asked: deque[float] = attrs.field(factory=deque)
    """When the pieces of work without an answer were due, in order."""


def events(sessions: Sequence[Session]) -> list[tuple[float, int, int, float]]:
    """What happens: the time, the kind, the session's number, and the CPU time in s of what is asked for."""
    return sorted(_events(sessions))


def _events(sessions: Sequence[Session]) -> Iterator[tuple[float, int, int, float]]:
    for number, session in enumerate(sessions):
        yield session.opens_s, _OPEN, number, 0.0
        for due_s, work_s in session.pieces:
            yield due_s, _ASK, number, work_s
        yield session.closes_s, _CLOSE, number, 0.0


class Clients:
    """Plays sessions. Times are in s from the start."""

    def __init__(self, start: float, sessions: Sequence[Session], proxies: Sequence[Address]) -> None:
        self.answers: list[tuple[float, float | None, str]] = []
        self.late_s: list[float] = []
        self._start = start
        self._sessions = sessions
        self._proxies = proxies
        self._events = deque(events(sessions))
        self._open: dict[int, Connection] = {}
        """By session's number, and by descriptor in `_by_descriptor`."""
        self._by_descriptor: dict[int, int] = {}
        self._epoll = select.epoll()

    def _now(self) -> float:
        return time.monotonic() - self._start

    def run(self, patience_s: float) -> None:
        """Play all sessions, and wait this long for their last answers."""
        end_s = (self._events[-1][0] if self._events else 0.0) + patience_s
        while (now := self._now()) < end_s:
            while self._events and self._events[0][0] <= now:
                self._play(*self._events.popleft())
            if not self._events and not self._open:
                return
            due_s = self._events[0][0] if self._events else end_s
            select.select([self._epoll], (), (), max(due_s - self._now(), 0.0))  # epoll's timeout is in whole ms
            for descriptor, _ in self._epoll.poll(0):
                self._ready(self._by_descriptor[descriptor])
        for number in list(self._open):
            self._close(number)

    def _play(self, due_s: float, kind: int, number: int, work_s: float) -> None:
        if kind == _OPEN:
            self._connect(number)
        elif kind == _ASK:
            self.late_s.append(self._now() - due_s)
            self._ask(number, due_s, work_s)
        elif number in self._open and not self._open[number].asked:
            self._close(number)

    def _connect(self, number: int) -> None:
        session = self._sessions[number]
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[number] = Connection(client, session.closes_s)
        self._by_descriptor[client.fileno()] = number
        self._epoll.register(client, select.EPOLLOUT)
        error = client.connect_ex(self._proxies[int(session.proxy * len(self._proxies))])
        if error != errno.EINPROGRESS:
            self._close(number)

    def _ask(self, number: int, due_s: float, work_s: float) -> None:
        connection = self._open.get(number)
        if connection is None:  # it was closed by the proxy
            self.answers.append((due_s, None, ""))
            return
        connection.asked.append(due_s)
        connection.unsent += f"{work_s * 1000:.4f}\n".encode()
        self._send(number)

    def _ready(self, number: int) -> None:
        connection = self._open[number]
        if connection.connected:
            self._receive(number)
        elif connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._close(number)
        else:
            connection.connected = True
            self._epoll.modify(connection.socket, select.EPOLLIN)
            self._send(number)

    def _send(self, number: int) -> None:
        """Send what is asked for. It is so little that it always fits into the socket's buffer."""
        connection = self._open[number]
        if not connection.connected or not connection.unsent:
            return
        try:
            connection.socket.send(connection.unsent)
        except OSError:
            self._close(number)
        connection.unsent = b""

    def _receive(self, number: int) -> None:
        connection = self._open[number]
        try:
            data = connection.socket.recv(LINES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = self._now()
        *names, connection.partial = (connection.partial + data).split(b"\n")
        for name in names:
            due_s = connection.asked.popleft()
            self.answers.append((due_s, now - due_s, name.decode()))
        if not data or (not connection.asked and now >= connection.closes_s):
            self._close(number)

    def _close(self, number: int) -> None:
        """Close it. What it has asked for without an answer has failed."""
        connection = self._open.pop(number)
        del self._by_descriptor[connection.socket.fileno()]
        connection.socket.close()
        self.answers += [(due_s, None, "") for due_s in connection.asked]


def main(plan: Mapping[str, Any]) -> None:
    with suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text(str(TIMER_SLACK_NS))
    gc.disable()
    sessions = [Session.from_json(values) for values in plan["sessions"]]
    clients = Clients(plan["start"], sessions, [(host, port) for host, port in plan["proxies"]])
    clients.run(plan["patience_s"])
    print(json.dumps({"answers": clients.answers, "late_s": clients.late_s}))


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()))
