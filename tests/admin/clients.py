"""The operators' server and its clients, on a clock and transports in memory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from rproxy.admin.answers import Folder
from rproxy.admin.channel import Channel
from rproxy.admin.documents import Document
from rproxy.admin.http_server import CONNECTIONS_MAX, AdminSite
from rproxy.admin.snapshots import Snapshots
from rproxy.timing.work_queue import WorkQueue
from tests.fakes import Stream, run

TURNS = 1000
"""More than any test's work takes."""


class Client(Stream):
    """One connection, as the server's transport; it reads what comes unless it is `stalled`."""

    def __init__(self, clock: Clock, connection: Channel) -> None:
        super().__init__(clock, connection)
        self._time = clock
        self.socket_options: list[tuple[object, ...]] = []

    family = socket.AF_INET
    """Of the socket, which is this object, too."""

    def getHandle(self) -> Any:
        return self

    def setsockopt(self, *option: object) -> None:
        self.socket_options.append(option)

    def send(self, data: bytes) -> None:
        """And let the server do all that it can do now."""
        self.receive(data)
        self.settle()

    def settle(self) -> None:
        for _ in range(TURNS):
            if not [call for call in self._time.calls if call.getTime() <= self._time.seconds()]:
                return
            self._time.advance(0)
        raise AssertionError("the server does not come to an end")

    def ask(self, request: bytes) -> bytes:
        """What is answered."""
        self.send(request)
        return self.take()

    def take(self) -> bytes:
        answer = bytes(self.value())
        self.clear()
        return answer


class ServerBench:
    def __init__(
        self,
        render: Callable[[], Iterator[bytes]] = lambda: iter((b"a document\n",)),
        names: Collection[str] = (),
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self.clock = Clock()
        self.work = work = WorkQueue(self.clock)
        self.root = root = Folder()
        root.putChild(b"status.json", Document("text/plain", Snapshots(render, work, self.clock.seconds), work))
        self.server = AdminSite(root, self.clock, work, names, connections_max)
        self.server.doStart()

    def client(self) -> Client:
        connection = self.server.buildProtocol(IPv4Address("TCP", "127.0.0.1", 4321))
        assert connection is not None
        client = Client(self.clock, connection)
        connection.makeConnection(client)
        return client

    def wait(self, seconds: float) -> None:
        run(self.clock, seconds)
