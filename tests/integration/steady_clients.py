"""New clients at a steady rate, and the server that they end up at, in a process of its own.

Run as a program, it prints its server's port, reads the address to connect to, and at the end of its input prints what
has become of the clients.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Self

import attrs

from rproxy.net.addresses import Address
from tests.integration.addresses import LOOPBACK
from tests.integration.twistd import environment

QUESTION: Final = b"?"
ANSWER: Final = b"!"
PATIENCE_S: Final = 10.0
TICK_S: Final = 0.005
_READ: Final = 64


@attrs.frozen
class Outcome:
    """What became of the clients: those who got no answer by reason, how long the slowest took, and how many a second
    got theirs.
    """

    failed: dict[str, int]
    slowest_s: float
    rate: float


class SteadyClients:
    """The program as a process: clients come from `begin` to `end`."""

    def __init__(self, rate: int) -> None:
        command = [sys.executable, "-m", __name__, str(rate)]
        self._process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.server_port = int(self._line())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def begin(self, address: Address) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{address[0]} {address[1]}\n")
        self._process.stdin.flush()

    def end(self) -> Outcome:
        assert self._process.stdin is not None
        self._process.stdin.close()
        return Outcome(**json.loads(self._line()))


class _Sockets:
    """One epoll for all, without a layer between: on the machine of a test, clients must cost less than the proxy."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def add(self, sock: socket.socket, events: int, handle: Callable[[], None]) -> None:
        self._handlers[sock.fileno()] = handle
        self._epoll.register(sock, events)

    def close(self, sock: socket.socket) -> None:
        del self._handlers[sock.fileno()]
        sock.close()

    def turn(self, wait_s: float) -> None:
        for descriptor, _ in self._epoll.poll(wait_s):
            handle = self._handlers.get(descriptor)
            if handle is not None:
                handle()


class _Server:
    """Answers a question, and ends the connection."""

    def __init__(self, sockets: _Sockets) -> None:
        self._sockets = sockets
        self._socket = socket.create_server((LOOPBACK, 0), backlog=4096)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        sockets.add(self._socket, select.EPOLLIN, self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        self._sockets.add(sock, select.EPOLLIN, lambda: self._answer(sock))

    def _answer(self, sock: socket.socket) -> None:
        try:
            if sock.recv(_READ):
                sock.send(ANSWER)
        except OSError:
            pass
        self._sockets.close(sock)


class _Client:
    def __init__(self, clients: _Clients, began: float) -> None:
        self.began = began
        self._clients = clients
        self._got = b""
        self._asked = False
        clients.running[self] = None
        self._socket = socket.socket()
        self._socket.setblocking(False)
        error = self._socket.connect_ex(clients.address)
        if error not in (0, errno.EINPROGRESS):
            self._socket.close()
            clients.ended(self, errno.errorcode[error])
            return
        events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
        clients.sockets.add(self._socket, events, self._handle)

    def _handle(self) -> None:
        try:
            if not self._asked:
                self._socket.send(QUESTION)
                self._asked = True
            while data := self._socket.recv(_READ):
                self._got += data
        except BlockingIOError:
            return
        except OSError as error:
            self.end(f"{errno.errorcode[error.errno or 0]} after {self._got!r}")
            return
        self.end("" if self._got == ANSWER else f"got {self._got!r}")

    def end(self, failure: str) -> None:
        self._clients.sockets.close(self._socket)
        self._clients.ended(self, failure)


class _Clients:
    def __init__(self, sockets: _Sockets, address: Address) -> None:
        self.sockets = sockets
        self.address = address
        self.running: dict[_Client, None] = {}
        """In the order in which they came."""
        self._served = 0
        self._failed: Counter[str] = Counter()
        self._slowest_s = 0.0

    def start(self) -> None:
        _Client(self, time.monotonic())

    def ended(self, client: _Client, failure: str) -> None:
        self.running.pop(client, None)
        self._slowest_s = max(self._slowest_s, time.monotonic() - client.began)
        if failure:
            self._failed[failure] += 1
        else:
            self._served += 1

    def expire(self) -> None:
        """End those who have waited for too long."""
        while self.running:
            eldest = next(iter(self.running))
            if time.monotonic() - eldest.began < PATIENCE_S:
                return
            eldest.end("timeout")

    def outcome(self, lasted_s: float) -> Outcome:
        return Outcome(dict(self._failed), self._slowest_s, self._served / lasted_s)


def _main(rate: int) -> None:
    sockets = _Sockets()
    print(_Server(sockets).port, flush=True)
    host, port = sys.stdin.readline().split()
    clients, began, started, over = _Clients(sockets, (host, int(port))), time.monotonic(), 0, False
    lasted_s = 0.0
    while clients.running or not over:
        over = over or bool(select.select([sys.stdin], [], [], 0)[0])
        lasted_s = lasted_s if over else time.monotonic() - began
        due = started if over else int((time.monotonic() - began) * rate)
        for _ in range(started, due):
            clients.start()
        started = due
        sockets.turn(TICK_S)
        clients.expire()
    print(json.dumps(attrs.asdict(clients.outcome(lasted_s))), flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
