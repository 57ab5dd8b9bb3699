from __future__ import annotations

from random import Random
from typing import Any, Final

import pytest

from rproxy.net.addresses import Address
from rproxy.study.agents import FORGET_S, SERVICE_PORT, Agent, Network, Transport, address_of
from rproxy.study.engine import Engine
from rproxy.study.hosts import Host, HostSpec, Job
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register, decode, encode

PLAIN: Final = Network()


class Bench:
    """An agent, and what came back to one proxy over a network."""

    def __init__(self, network: Network = PLAIN, **spec: Any) -> None:
        self.engine = Engine()
        self.host = Host(self.engine, 300, HostSpec(**spec), Random(1))
        self.agent = Agent(self.engine, self.host, 77)
        self.transport = Transport(self.engine, network, {self.agent.address: self.agent}, 0, Random(1))
        self.received: list[float] = []

    def ask(self, sessions: int | None, proxy: int = 0) -> ProbeResponse:
        answer = decode(self.agent.answer(encode(ProbeRequest(5, 6, sessions)), proxy))
        assert isinstance(answer, ProbeResponse)
        assert (answer.sequence, answer.token) == (5, 6)
        return answer

    def datagramReceived(self, datagram: bytes, address: Address) -> None:
        assert isinstance(decode(datagram), ProbeResponse)
        assert address == self.agent.address
        self.received.append(self.engine.now)


def test_addresses_differ() -> None:
    assert address_of(300) == "10.0.1.44"
    assert len({address_of(number) for number in range(70_000)}) == 70_000


def test_an_agent_registers_with_its_weight() -> None:
    assert decode(Bench(weight=5).agent.registration()) == Register(SERVICE_PORT, 20_000, 77, 5)


def test_an_agent_reports_its_host() -> None:
    bench = Bench(memory=33, workers=1, backlog=4, idle_connections=7)
    bench.host.connections = 2
    for _ in range(3):
        bench.host.accept(Job(1.0, None, lambda job: None))
    bench.engine.run(0.6)
    answer = bench.ask(None)
    assert answer.cpu is not None
    assert answer.cpu >= 90
    assert (answer.memory, answer.load, answer.tcp, answer.others) == (33, 50, 9, 0)


def test_the_echo_is_of_the_other_proxies_and_is_forgotten() -> None:
    bench = Bench()
    assert bench.ask(3, proxy=0).others == 0
    assert bench.ask(4, proxy=1).others == 3
    assert bench.ask(5, proxy=0).others == 4
    assert bench.ask(None, proxy=2).others == 9
    bench.engine.run(FORGET_S - 1)
    assert bench.ask(1, proxy=1).others == 5
    bench.engine.run(FORGET_S + 1)
    assert bench.ask(None, proxy=2).others == 1


def test_answers_come_back_after_the_networks_delay() -> None:
    bench = Bench(Network(delay_s=0.1))
    bench.transport.monitor = bench  # type: ignore[assignment]
    for _ in range(100):
        bench.transport.write(encode(ProbeRequest(1, 2)), bench.agent.address)
    bench.engine.run(1.0)
    assert bench.transport.sent == len(bench.received) == 100
    assert min(bench.received) >= 0.2
    assert max(bench.received) <= 0.3


@pytest.mark.parametrize(("loss", "least", "most"), [(0.0, 1000, 1000), (0.2, 750, 850), (1.0, 0, 0)])
def test_probes_are_lost_at_the_networks_rate(loss: float, least: int, most: int) -> None:
    bench = Bench(Network(loss=loss))
    bench.transport.monitor = bench  # type: ignore[assignment]
    for _ in range(1000):
        bench.transport.write(encode(ProbeRequest(1, 2)), bench.agent.address)
    bench.engine.run(1.0)
    assert least <= len(bench.received) <= most


def test_answers_to_a_stopped_proxy_are_dropped() -> None:
    bench = Bench()
    bench.transport.write(encode(ProbeRequest(1, 2)), bench.agent.address)
    bench.engine.run(1.0)
    assert bench.received == []
