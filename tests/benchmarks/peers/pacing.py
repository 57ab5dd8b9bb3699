"""A client that sends requests at a fixed rate, whatever the answers take: `... HOST PORT PATH RATE SECONDS`.

Each request is due at its time. Latency counts from then for one that must wait because no connection is free, so that
a proxy which stalls does not get fewer requests to be slow with; a delay of the client's own making is counted apart.
Prints JSON: percentiles of latency and of that delay, in microseconds.
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
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import attrs

CONNECTIONS: Final = 64
WARM_UP_S: Final = 0.3
"""Requests due in it do not count."""
PATIENCE_S: Final = 1.0
"""Wait for the last answers; missing ones count with the time elapsed so far."""
TIMER_SLACK_NS: Final = 1000
ANSWER_MAX: Final = 4096


def request(path: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: backend\r\n\r\n".encode()


def answer_size(client: socket.socket, asked: bytes) -> int:
    """The size of the answer to one request, sent in one piece."""
    client.sendall(asked)
    answer = client.recv(ANSWER_MAX)
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"an unexpected answer: {answer[:40]!r}")
    return len(answer)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; `share` is 0..1."""
    return values[max(math.ceil(share * len(values)), 1) - 1]


@attrs.define
class Schedule:
    """When each request is due, and from when its latency counts. Times are in seconds, of one clock."""

    due: float
    """When the next request is due."""
    interval_s: float
    _full: bool = False
    """No connection is free, or none was and what has become due since then has not been sent yet."""
    _back: float = 0.0
    """Until when nothing was sent although a connection was free."""

    def resume(self, now: float) -> None:
        """The client starts to send due requests."""
        if not self._full:
            self._back = now

    def take(self) -> tuple[float, float]:
        due = self.due
        self.due += self.interval_s
        return due, max(due, self._back)

    def pause(self, now: float, *, free: bool) -> None:
        """All that is due has been sent, or there is no free connection for it."""
        self._full = not free or (self._full and self.due <= now)


class Pacer:
    """Sends due requests on free connections, round robin. Times are from `time.perf_counter`."""

    def __init__(self, clients: Sequence[socket.socket], asked: bytes, rate: float, seconds: float) -> None:
        self.latencies: list[float] = []
        self.delays: list[float] = []
        self._size = max(answer_size(client, asked) for client in clients)
        self._asked = asked
        self._sends = {client.fileno(): client.send for client in clients}
        self._receives = {client.fileno(): client.recv for client in clients}
        self._free = deque(self._sends)
        self._asked_at: dict[int, tuple[float, float]] = {}
        """When the request that a connection waits for was due, and from when its latency counts."""
        self._received = dict.fromkeys(self._sends, 0)
        self._epoll = select.epoll()
        for client in clients:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._epoll.register(client, select.EPOLLIN)
        self._schedule = Schedule(time.perf_counter(), 1 / rate)
        self._counting = self._schedule.due + WARM_UP_S
        self._end = self._counting + seconds

    def run(self) -> None:
        deadline = self._end + PATIENCE_S
        while (self._schedule.due < self._end or self._asked_at) and time.perf_counter() < deadline:
            idle_s = self._send()
            if not self._receive() and idle_s > 0:
                select.select([self._epoll], (), (), idle_s)  # epoll's own timeout has only whole milliseconds
        self._give_up()

    def _send(self) -> float:
        """Send due requests; returns the seconds until the next one is due."""
        schedule, now = self._schedule, time.perf_counter()
        schedule.resume(now)
        while schedule.due <= now and schedule.due < self._end and self._free:
            client = self._free.popleft()
            self._sends[client](self._asked)
            self._asked_at[client] = schedule.take()
            now = time.perf_counter()
        schedule.pause(now, free=bool(self._free))
        return schedule.due - now if self._free and schedule.due < self._end else PATIENCE_S

    def _receive(self) -> bool:
        events = self._epoll.poll(0)
        for client, _ in events:
            size = len(self._receives[client](ANSWER_MAX))
            now = time.perf_counter()
            if not size:
                raise ConnectionError("a connection was closed")
            self._received[client] += size
            if self._received[client] >= self._size:
                self._received[client] = 0
                self._free.append(client)
                self._count(*self._asked_at.pop(client), now)
        return bool(events)

    def _count(self, due: float, counts: float, now: float) -> None:
        if due >= self._counting:
            self.latencies.append(now - counts)
            self.delays.append(counts - due)

    def _give_up(self) -> None:
        now = time.perf_counter()
        while self._schedule.due < self._end:
            self._count(*self._schedule.take(), now)
        for due, counts in self._asked_at.values():
            self._count(due, counts, now)


def main(host: str, port: str, path: str, rate: str, seconds: str) -> None:
    with suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text(str(TIMER_SLACK_NS))
    gc.disable()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(CONNECTIONS)]
        pacer = Pacer(clients, request(path), float(rate), float(seconds))
        pacer.run()
    figures = {}
    for name, values in [("latency", pacer.latencies), ("delay", pacer.delays)]:
        values.sort()
        for share in (0.5, 0.99):
            figures[f"{name}_p{share * 100:.0f}_us"] = round(percentile(values, share) * 1e6, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
