"""Embedded back-ends for a first look: small web servers that say their name, each with a real agent."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.web.http import Request as HttpRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from rproxy.agent.agent import Agent
from rproxy.agent.sampler import HostSampler, Sampler
from rproxy.net.addresses import Address, written
from rproxy.tap import agent
from rproxy.tap.keys import Keyring
from rproxy.tap.options import cannot_listen


class Greeting(Resource):
    """Says which back-end answers, whatever is asked for."""

    isLeaf = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._text = f"hello from {name}\n".encode()

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return self._text


class QuietSite(Site):
    """A site that does not log its requests."""

    noisy = False

    def log(self, request: HttpRequest) -> None:
        pass


class Demo:
    """`size` back-ends in this process, over real sockets."""

    log = Logger()

    def __init__(self, reactor: Any, size: int, *, keyring: Keyring | None = None, trace: bool = False) -> None:
        self._reactor = reactor
        self._size = size
        self._keyring = keyring
        self._trace = trace
        self.addresses: list[Address] = []
        """Of the back-ends."""
        self._ports: list[IListeningPort] = []
        self._agents: list[agent.AgentService] = []

    def open(self, monitor: Address) -> None:
        """Open the servers, to be registered at `monitor`. Raises `StartupError`."""
        sampler = HostSampler(self._reactor.seconds)
        for number in range(1, self._size + 1):
            self._open_one(f"demo back-end {number}", monitor, sampler)

    def _open_one(self, name: str, monitor: Address, sampler: Sampler) -> None:
        host = monitor[0]
        try:
            port = self._reactor.listenTCP(0, QuietSite(Greeting(name)), interface=host)
        except Exception as error:
            raise cannot_listen(f"a port for {name}", error) from error
        self._ports.append(port)
        address: Address = (host, port.getHost().port)
        self.addresses.append(address)
        self.log.info("{name} serves on {address}", name=name, address=written(address))
        settings = agent.Settings(
            proxies=(monitor,), port=0, service_port=address[1], keyring=self._keyring, trace=self._trace
        )
        self._agents.append(agent.AgentService(self._reactor, settings, host=host, sampler=sampler))

    def register(self) -> None:
        """Start the agents, once the reactor runs: before, it would make their first round trips look long."""
        for service in self._agents:
            self._reactor.callWhenRunning(service.startService)

    @property
    def agents(self) -> list[Agent]:
        return [service.agent for service in self._agents]

    def stop(self) -> Deferred[Any]:
        stopping = [service.stopService() for service in self._agents]
        stopping += [maybeDeferred(port.stopListening) for port in self._ports]
        return DeferredList(stopping)
