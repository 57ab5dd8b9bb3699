"""The clients of a run.

A line of standard input has the plan as JSON: `start` (monotonic clock), `sessions` (see `schedule.Session`),
`proxies` (their addresses), `patience_s` (how long it waits for answers after the last session's end). Prints JSON: for
each piece of work when it was due, its response time in s, or null if it was not answered, and the name of the host
that answered; and for each of them how late this client was, in s.
"""

from __future__ import annotations

import gc
import json
import math
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any, Final

import attrs

from rproxy.net.addresses import Address
from tests.benchmarks.hosts.schedule import Session

TIMER_SLACK_NS: Final = 1000
LINE_MAX: Final = 100
_OPEN, _ASK, _CLOSE = range(3)
"""Kinds of events."""


@attrs.define(eq=False)
class Connection:
    """A session that is open."""

    socket: socket.socket
    pieces: deque[tuple[float, float]]
    """What is still to be asked for, see `Session.pieces`."""
    closes_s: float
    connected: bool = False
    unsent: bytes = b""
    """What waits for the connection to be made."""
    partial: bytes = b""
    """The beginning of a line."""
    due_s: float | None = None
    """When the piece of work was due that has not been answered."""


class Clients:
    """Plays sessions. Times are in s from the start."""

    def __init__(self, start: float, sessions: Sequence[Session], proxies: Sequence[Address]) -> None:
        self.answers: list[tuple[float, float | None, str]] = []
        self.late_s: list[float] = []
        self._start = start
        self._sessions = sessions
        self._proxies = proxies
        self._events = [(session.opens_s, _OPEN, number) for number, session in enumerate(sessions)]
        """Heap of the time, the kind and the session's number."""
        heapify(self._events)
        self._open: dict[int, Connection] = {}
        """By session's number."""
        self._numbers: dict[int, int] = {}
        """Of the open sessions, by descriptor."""
        self._epoll = select.epoll()

    def _now(self) -> float:
        return time.monotonic() - self._start

    def run(self, patience_s: float) -> None:
        """Play all sessions, and wait this long for their last answers."""
        end_s = max((session.closes_s for session in self._sessions), default=0.0) + patience_s
        while (now := self._now()) < end_s:
            while self._events and self._events[0][0] <= now:
                self._play(*heappop(self._events))
            if not self._events and not self._open:
                return
            due_s = min(self._events[0][0], end_s) if self._events else end_s
            select.select([self._epoll], (), (), max(due_s - self._now(), 0.0))  # epoll's timeout is in whole ms
            for descriptor, _ in self._epoll.poll(0):
                self._ready(self._numbers[descriptor])
        for number in list(self._open):
            self._close(number)

    def _play(self, due_s: float, kind: int, number: int) -> None:
        if kind == _OPEN:
            self._connect(number)
            self._go_on(number, due_s)
        elif number not in self._open:  # its connection has failed
            self.answers += [(due_s, None, "")] if kind == _ASK else []
        elif kind == _ASK:
            self._ask(number, due_s)
        else:
            self._close(number)

    def _go_on(self, number: int, now: float) -> None:
        """Plan what comes next in a session without work in hand."""
        connection = self._open[number]
        due_s = now + connection.pieces[0][0] if connection.pieces else math.inf
        if due_s <= connection.closes_s:
            heappush(self._events, (due_s, _ASK, number))
        else:
            heappush(self._events, (max(now, connection.closes_s), _CLOSE, number))

    def _ask(self, number: int, due_s: float) -> None:
        connection = self._open[number]
        self.late_s.append(self._now() - due_s)
        _, work_s = connection.pieces.popleft()
        connection.due_s = due_s
        connection.unsent = f"{work_s * 1000:.4f}\n".encode()
        self._send(number)

    def _connect(self, number: int) -> None:
        session = self._sessions[number]
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[number] = Connection(client, deque(session.pieces), session.closes_s)
        self._numbers[client.fileno()] = number
        client.connect_ex(self._proxies[int(session.proxy * len(self._proxies))])
        self._epoll.register(client, select.EPOLLOUT)  # which tells of an error, too

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
            data = connection.socket.recv(LINE_MAX)
        except OSError:
            data = b""
        now = self._now()
        if not data:
            self._close(number)
            return
        connection.partial += data
        if connection.partial.endswith(b"\n") and connection.due_s is not None:
            self.answers.append((connection.due_s, now - connection.due_s, connection.partial.decode().strip()))
            connection.partial, connection.due_s = b"", None
            self._go_on(number, now)

    def _close(self, number: int) -> None:
        """Close it. What was asked for and not answered has failed."""
        connection = self._open.pop(number)
        del self._numbers[connection.socket.fileno()]
        connection.socket.close()
        if connection.due_s is not None:
            self.answers.append((connection.due_s, None, ""))


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
