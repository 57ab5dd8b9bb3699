"""A splice carrier between real sockets in this process, whose turns the test makes."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any
from unittest import mock

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.tcp import Port

from rproxy.carriers.portable.carrier import PortableCarrier
from rproxy.carriers.splice.pipes import Pipes
from rproxy.carriers.splice.reactor import SpliceCarrier
from rproxy.observe.publisher import Publisher
from rproxy.pool.events import EligibilityChanged
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.link import Link
from rproxy.sessions.record import SessionRecord
from rproxy.sessions.service import DEFAULT_TERMS, Service, ServiceTerms
from rproxy.sessions.session import Session
from rproxy.tap.service import serve_pool
from rproxy.timing.wheel import Wheel
from tests.carriers.loopback import QUIET_MS, WAIT_S, fill, listening
from tests.fakes import CountingPolicy, Reactor, confirm, connected, pool_of, registered, run


@attrs.define
class LoopbackEndpoint:
    """Listens with a port of Twisted's; `wrap` stands between it and the factory, as TLS does."""

    reactor: Any
    wrap: Callable[[Any], Any] = lambda factory: factory
    ports: list[Port] = attrs.field(factory=list)

    def listen(self, factory: Any) -> Deferred[IListeningPort]:
        port: Any = Port(0, self.wrap(factory), 50, "127.0.0.1", self.reactor)
        port.startListening()
        self.ports.append(port)
        return succeed(port)


class Splicing:
    """A carrier with a port for clients, and a back-end up for each of the `servers`."""

    def __init__(
        self,
        stack: ExitStack,
        *servers: socket.socket,
        policy: Any = None,
        sessions_max: int = 100,
        strict: bool = False,
        pipes: int = 4,
        terms: ServiceTerms = DEFAULT_TERMS,
        remember: bool = True,
    ) -> None:
        self._stack = stack
        self.reactor = Reactor()
        self.policy: Any = CountingPolicy() if policy is None else policy
        self.pool = pool_of(self.policy)
        for number, server in enumerate(servers, 1):
            stack.enter_context(server)
            address, port = server.getsockname()
            confirm(self.pool, registered(self.pool, address, service_port=port), token=number)
        self.publish = Publisher()
        self.served = serve_pool(self.pool, self.reactor, terms, observers=[self], publish=self.publish)
        self.service, self.counters = self.served.service, self.served.counters
        self.publish.subscribe({EligibilityChanged: lambda event: self.service.wait_queue.eligibility_changed(event)})
        self.capacity = Capacity(sessions_max, self.reactor.seconds)
        self.pipes = Pipes(pipes)
        self.portable = PortableCarrier(self.reactor, Wheel(self.reactor), self.capacity)
        self.carrier = SpliceCarrier(self.reactor, self.portable, self.pipes, strict=strict)
        self.endpoint = LoopbackEndpoint(self.reactor)
        self.servers = servers
        self.sessions: list[Session] = []
        self.clients: list[str] = []
        """Addresses of the clients of sessions that have ended, as their records had them."""
        if remember:
            self._remember_sessions()
        stack.callback(self._close)
        self.carrier.serve(self.endpoint, self.service)  # type: ignore[arg-type]

    def _remember_sessions(self) -> None:
        initialize = Session.__init__

        def remember(session: Session, service: Service, link: Link, *arguments: Any) -> None:
            initialize(session, service, link, *arguments)
            if service is self.service:
                self.sessions.append(session)

        self._stack.enter_context(mock.patch.object(Session, "__init__", remember))

    def session_ended(self, record: SessionRecord) -> None:
        self.clients.append(record.client)

    def _close(self) -> None:
        self.carrier.abort()
        for port in self.endpoint.ports:
            port.stopListening()
        run(self.reactor, 0)

    @property
    def port(self) -> Port:
        return self.endpoint.ports[0]

    def turn(self, wait_s: float = 0.0) -> bool:
        """Let the carrier serve its events; returns whether there were any within `wait_s` seconds."""
        ready = self.has_events(wait_s)
        if ready:
            self.carrier.doRead()
        return ready

    def has_events(self, wait_s: float = 0.0) -> bool:
        return bool(select.select([self.carrier], [], [], wait_s)[0])

    def until(self, condition: Callable[[], object]) -> None:
        """Serve events until `condition` holds."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it has not come"
            self.turn(0.01)

    def pass_s(self, seconds: float) -> None:
        run(self.reactor, seconds)

    def dial(self, port: Port | None = None, *, buffer: int | None = None) -> socket.socket:
        """A client that is connected to the proxy; `buffer` is the size of its receive buffer."""
        client = self._stack.enter_context(socket.socket())
        if buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.connect((port or self.port).socket.getsockname())
        client.setblocking(False)
        return client

    def accept(self, server: socket.socket) -> socket.socket:
        """The next connection to a back-end."""
        self.until(lambda: select.select([server], [], [], 0)[0])
        connection = self._stack.enter_context(server.accept()[0])
        connection.setblocking(False)
        return connection

    def joined(self) -> tuple[socket.socket, socket.socket]:
        """The outer ends of a session that is connected to the first back-end."""
        client = self.dial()
        backend = self.accept(self.servers[0])
        self.until(lambda: self.sessions[-1].is_connected)
        return client, backend

    def leg_of(self, end: socket.socket) -> socket.socket:
        """A second descriptor of the proxy's own socket that is connected to `end`."""
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    sock = self._stack.enter_context(socket.socket(fileno=os.dup(int(name))))
                    if sock.getpeername() == end.getsockname():
                        return sock
        raise AssertionError("no such leg")

    def quieten(self) -> None:
        """Serve until no event comes for `QUIET_MS`."""
        self.until(lambda: not self.turn(QUIET_MS / 1000))

    def stall(self, source: socket.socket) -> None:
        """Send until the buffers up to the peer, which does not read, are full."""
        while fill(source):
            self.quieten()

    def receive(self, sock: socket.socket, size: int) -> bytes:
        """The next `size` bytes; fewer at the end of the stream. Raises `ConnectionError` at a reset."""
        received = bytearray()

        def complete() -> bool:
            try:
                while len(received) < size:
                    piece = sock.recv(size - len(received))
                    if not piece:
                        return True
                    received.extend(piece)
            except BlockingIOError:
                return False
            return True

        self.until(complete)
        return bytes(received)

    def send(self, sock: socket.socket, data: bytes) -> None:
        pending = memoryview(data)

        def complete() -> bool:
            nonlocal pending
            with suppress(BlockingIOError):
                pending = pending[sock.send(pending) :]
            return not pending

        self.until(complete)

    def is_reset(self, sock: socket.socket) -> bool:
        """Whether a reset arrives, and not the end of the stream; data before it is discarded."""
        try:
            while self.receive(sock, 65536):
                pass
        except ConnectionError:
            return True
        return False

    @property
    def connections(self) -> list[tuple[int, int]]:
        return [(backend.counts.pending, backend.counts.established) for backend in self.pool]

    def assert_over(self, *endings: Ending) -> None:
        """The sessions have ended like this, in order, and left nothing behind."""
        self.until(lambda: self.capacity.sessions == 0)
        assert [session.ending for session in self.sessions] == list(endings)
        assert sorted(self.counters.endings.elements()) == sorted(endings)
        self.assert_nothing_held()

    def assert_nothing_held(self) -> None:
        assert self.capacity.sessions == self.service.capacity.sessions == 0
        assert self.connections == [(0, 0)] * len(self.pool)
        assert self.policy.told["opened"] == self.policy.told["closed"]
        assert self.pipes.used == 0
        assert connected(self.carrier) == []


def with_one_server(stack: ExitStack, **options: Any) -> Splicing:
    return Splicing(stack, listening(), **options)


def black_hole(stack: ExitStack, address: str) -> socket.socket:
    """A server whose accept queue is full: connects to it get no answer."""
    server = listening(address, backlog=0)
    for _ in range(2):
        sock = stack.enter_context(socket.socket())
        sock.setblocking(False)
        sock.connect_ex(server.getsockname())
    return server
