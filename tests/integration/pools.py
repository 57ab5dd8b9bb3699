"""Back-ends and clients around a proxy, for one test."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, TypeVar

import attrs

from rproxy.agent.sampler import Load
from rproxy.net.addresses import Address
from tests.integration.addresses import RefusingPort
from tests.integration.fake_agents import IDLE, FakeAgent
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.servers import DeafListener, Listener, Server
from tests.integration.sockets import connect, receive

_NAME: Final = struct.Struct("!I")


@attrs.define
class Pool:
    """The back-ends and clients of one test at a proxy that further tests use."""

    proxy: Proxy
    _agents: list[FakeAgent] = attrs.field(init=False, factory=list)
    _linked: Listener | None = attrs.field(init=False, default=None)
    _stack: ExitStack = attrs.field(init=False, factory=ExitStack)
    _logged: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._logged = len(self.proxy.log)

    def register(self, service: Address, load: Load = IDLE, *, state: str = "up") -> FakeAgent:
        """Register a service; returns once it is up, or in another state."""
        agent = FakeAgent(self.proxy.monitor, service[1], load)
        self._agents.append(agent)
        poll(lambda: self.proxy.state(agent.backend) == state, READY_S, f"{agent.backend} is {state}")
        return agent

    def agent_of(self, service: Address) -> FakeAgent:
        return next(agent for agent in self._agents if agent.backend == service)

    def listen(self, load: Load = IDLE) -> Listener:
        return self.use(Listener(), load)

    def serve(self, handle: Callable[[socket.socket], None], load: Load = IDLE) -> Server:
        return self.use(Server(handle), load)

    def drop_syns(self, load: Load = IDLE) -> DeafListener:
        return self.use(DeafListener(), load)

    def refuse(self, load: Load = IDLE) -> RefusingPort:
        return self.use(RefusingPort(), load)

    def use(self, service: Service, load: Load = IDLE) -> Service:
        """Register a back-end that is closed with the test."""
        self._stack.callback(service.close)
        self.register(service.address, load)
        return service

    def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        """Connect a client to the proxy's first listener."""
        return self.keep(connect(self.proxy.address, receive_buffer=receive_buffer))

    def keep(self, client: socket.socket) -> socket.socket:
        self._stack.callback(client.close)
        return client

    def link(self, *, client_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
        """A connected session: the client's socket and the back-end's."""
        listener = self._linking(IDLE)
        client = self.connect(receive_buffer=client_buffer)
        server = listener.accept()
        self._wait_linked(listener)
        return client, server

    def links(self, number: int, load: Load = IDLE) -> list[tuple[socket.socket, socket.socket]]:
        """As `link`, many at once. `load` is reported by their back-end, unless it exists already."""
        listener = self._linking(load)
        clients = [self.connect() for _ in range(number)]
        for name, client in enumerate(clients):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the test's own bytes do not wait for these
            client.sendall(_NAME.pack(name))
        servers = {}
        for _ in range(number):  # they come in any order
            server = listener.accept()
            (name,) = _NAME.unpack(receive(server, _NAME.size))
            servers[name] = server
        self._wait_linked(listener)
        return [(client, servers[name]) for name, client in enumerate(clients)]

    def _linking(self, load: Load) -> Listener:
        """The back-end of all links."""
        if self._linked is None:
            self._linked = self.listen(load)
        return self._linked

    def _wait_linked(self, listener: Listener) -> None:
        sessions = len(listener.accepted)
        poll(lambda: self.proxy.backends()[listener.address]["total"] == sessions, READY_S, "all are connected")

    def settled(self, within_s: float) -> None:
        """Wait until no session and no socket of one is left."""
        poll(lambda: self.proxy.connections() == 0, within_s, "no session is left")
        poll(lambda: self.proxy.descriptors("socket") <= self.proxy.idle_sockets, within_s, "no socket is left")

    def close(self) -> None:
        """After every test: its sessions must end promptly, and no exception may be logged."""
        self._stack.close()
        try:
            self.settled(within_s=3.0)
        finally:
            for agent in self._agents:
                agent.close()
            poll(lambda: not self.proxy.backends(), READY_S, "no back-end is left")
        assert failures(self.proxy.log[self._logged :]) == []

    def abandon(self) -> None:
        """As `close`, for a proxy that ends with the test."""
        self._stack.close()
        for agent in self._agents:
            agent.close(unregister=False)


Service = TypeVar("Service", Listener, Server, DeafListener, RefusingPort)
