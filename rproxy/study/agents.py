"""The agents of simulated hosts, and the network between them and a proxy."""

from __future__ import annotations

from random import Random
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.sources.agents.monitor import Monitor
from rproxy.study.engine import Engine
from rproxy.study.hosts import Host
from rproxy.wire.pdu import UDP_PORT, ProbeRequest, ProbeResponse, Register, decode, encode

SERVICE_PORT: Final = 80
REGISTER_S: Final = 20.0
"""Between two registrations of an agent."""
FORGET_S: Final = 12.0
"""How long an agent counts what a proxy has told of its sessions."""


def address_of(number: int) -> str:
    """The IP address of a host."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


class Agent:
    """Answers what a proxy asks about its host."""

    def __init__(self, engine: Engine, host: Host, instance: int) -> None:
        self._engine = engine
        self.host = host
        self.instance = instance
        self.address: Address = (address_of(host.number), UDP_PORT)
        self._told: dict[int, tuple[int, float]] = {}
        """By proxy: the sessions that it has on this host, as it last said, and when."""

    def registration(self) -> bytes:
        """The datagram that registers its host."""
        weight = self.host.spec.weight
        return encode(Register(SERVICE_PORT, int(REGISTER_S * 1000), self.instance, weight))

    def answer(self, datagram: bytes, proxy: int) -> bytes:
        """The answer to a PROBE REQUEST of the proxy of that number."""
        request = decode(datagram)
        assert isinstance(request, ProbeRequest)
        host = self.host
        response = ProbeResponse(
            request.sequence,
            request.token,
            host.cpu(),
            host.spec.memory,
            host.load(),
            host.connections + host.spec.idle_connections,
            others=self._others(proxy, request.sessions),
        )
        return encode(response)

    def _others(self, proxy: int, sessions: int | None) -> int:
        """Sessions of the other proxies; this one has that many, None where it does not say."""
        told, now = self._told, self._engine.now
        if sessions is not None:
            told[proxy] = sessions, now
        return sum(count for other, (count, at) in told.items() if other != proxy and now - at < FORGET_S)


@attrs.frozen
class Network:
    """Between a proxy and an agent: `delay_s` one way, half as much again at most, and probes lost.

    `loss` is the fraction of probes whose request or answer is lost.
    """

    delay_s: float = 0.00025
    loss: float = 0.0


class Transport:
    """The part of a UDP transport that a `Monitor` uses: it carries probes to agents, and their answers back."""

    def __init__(self, engine: Engine, network: Network, agents: dict[Address, Agent], proxy: int, rng: Random) -> None:
        self._engine = engine
        self._network = network
        self._agents = agents
        self._proxy = proxy
        self._random = rng.random
        self.monitor: Monitor | None = None
        """Who gets the answers; None while its proxy is not running."""
        self.sent = 0
        """Probes sent."""

    def write(self, datagram: bytes, address: Address) -> None:
        """Send a probe to an agent."""
        self.sent += 1
        agent = self._agents[address]
        loss = self._network.loss + agent.host.spec.loss
        if loss and self._random() < loss:
            return
        self._engine.at(self._engine.now + self._delay_s(agent), self._ask, (datagram, agent))

    def _delay_s(self, agent: Agent) -> float:
        return (self._network.delay_s + agent.host.spec.delay_s) * (1 + self._random() / 2)

    def _ask(self, sent: tuple[bytes, Agent]) -> None:
        datagram, agent = sent
        answer = agent.answer(datagram, self._proxy)
        self._engine.at(self._engine.now + self._delay_s(agent), self._receive, (answer, agent.address))

    def _receive(self, received: tuple[bytes, Address]) -> None:
        if self.monitor is not None:
            self.monitor.datagramReceived(*received)
