"""`--demo`: back-ends in the proxy's process, small web servers that answer with their name, each with a real agent."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.web.http import Request as HttpRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from rproxy.agent.agent import Agent
from rproxy.agent.sampler import HostSampler, Load, Sampler
from rproxy.agent.scope import Scope, figures
from rproxy.config.model import AgentConfig, ProxyConfig
from rproxy.net.addresses import Address, written
from rproxy.tap.agent import AgentService
from rproxy.tap.agents_port import AgentsPort
from rproxy.tap.parts import Part, closed
from rproxy.tap.startup import cannot_listen


class Greeting(Resource):
    """Answers every request with the back-end's name."""

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


@attrs.frozen
class DemoSampler:
    """This host's load without its connections: those of the proxy and of all demo back-ends are among them."""

    sampler: Sampler

    def sample(self) -> Load:
        """As `Sampler.sample`."""
        return attrs.evolve(self.sampler.sample(), tcp=None)


class Demo(Part):
    """Back-ends in this process, over real sockets, which register at its own monitor."""

    log = Logger()

    def __init__(self, reactor: Any, config: ProxyConfig, monitor: AgentsPort) -> None:
        """`monitor` must be open when the demo opens its ports."""
        self._reactor = reactor
        self._config = config
        self._monitor = monitor
        self.addresses: list[Address] = []
        """Of the back-ends' servers."""
        self._ports: list[IListeningPort] = []
        self._agents: list[AgentService] = []
        self._sampler: HostSampler | None = None
        """For all agents."""

    def privilegedStartService(self) -> None:
        if not self._config.demo:
            return
        self._sampler = HostSampler(self._reactor.seconds, figures(Scope.AUTO))
        for number in range(1, self._config.demo + 1):
            self._open_one(f"demo back-end {number}", self._monitor.local_address, DemoSampler(self._sampler))

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
        config = AgentConfig(
            proxies=(monitor,), port=0, service_port=address[1], keyring=self._config.keyring, trace=self._config.trace
        )
        self._agents.append(AgentService(self._reactor, config, host=host, sampler=sampler))

    def startService(self) -> None:
        """The agents start once the reactor runs: earlier, their first round trips would look long."""
        super().startService()
        for service in self._agents:
            self._reactor.callWhenRunning(service.startService)

    @property
    def agents(self) -> list[Agent]:
        """Of the back-ends, in their order."""
        return [service.agent for service in self._agents]

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        if self._sampler is not None:
            self._sampler.close()
        return DeferredList([*(service.stopService() for service in self._agents), closed(*self._ports)])
