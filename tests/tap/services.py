"""The two commands' services on a reactor in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred

from rproxy.agent.sampler import Load
from rproxy.config.model import AgentConfig, ProxyConfig, ServiceConfig
from rproxy.tap.agent import AgentService
from rproxy.tap.proxy import ProxyService
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register, encode
from tests.fakes import Reactor, Stream, StubSampler

AGENT = ("10.0.0.1", 5555)
MONITOR = ("10.1.1.10", 5555)
DRAIN_S = 1.0
_PROCESS = ProxyConfig()


def config(**settings: Any) -> ProxyConfig:
    """That of a proxy with one service; each setting is a field of the process or else of the service."""
    own = {name: settings.pop(name) for name in list(settings) if not hasattr(_PROCESS, name)}
    return ProxyConfig(**{"services": (ServiceConfig(**own),), **settings})


class ProxyBench:
    def __init__(self, reactor: Reactor | None = None, **settings: Any) -> None:
        self.reactor = reactor or Reactor()
        defaults = {"monitors": (MONITOR,), "drain_timeout_s": DRAIN_S}
        self.service = ProxyService(self.reactor, config(**{**defaults, **settings}))

    def start(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()

    def receive(self, pdu: Register | ProbeResponse) -> None:
        self.service.monitor.datagramReceived(encode(pdu), AGENT)

    def backend_up(self, instance: int = 1) -> None:
        """A back-end that registers for the default port, and answers its probe."""
        self.receive(Register(0, 20_000, instance=instance))
        ((request, _),) = self.reactor.datagrams[0].take()
        assert isinstance(request, ProbeRequest)
        self.receive(ProbeResponse(request.sequence, request.token, 10, 20, None, 0))

    def session(self) -> tuple[Stream, Stream]:
        factory = self.reactor.tcpServers[0][1]
        protocol = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 4321))
        assert protocol is not None
        client = Stream(self.reactor, protocol)
        protocol.makeConnection(client)
        return client, self.reactor.connects[-1].succeed()

    def opened(self) -> list[tuple[str, str, int]]:
        return [(at.type, at.host, at.port) for at in (port.getHost() for port in self.reactor.open_ports)]


class AgentBench:
    def __init__(self, reactor: Reactor | None = None, *, start: bool = True, **settings: Any) -> None:
        self.reactor = reactor or Reactor()
        self.sampler = StubSampler(Load(1, 2, 3))
        agent_config = AgentConfig(**{"proxies": (MONITOR,), **settings})
        self.service = AgentService(self.reactor, agent_config, sampler=self.sampler)
        if start:
            self.service.privilegedStartService()
            self.service.startService()


def ended(deferred: Deferred[Any]) -> list[object]:
    """What the Deferred came to, once it has."""
    results: list[object] = []
    deferred.addBoth(results.append)
    return results
