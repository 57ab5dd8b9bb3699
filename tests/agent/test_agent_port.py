"""The agent's UDP port: opened, changed while no proxy probes, closed."""

from __future__ import annotations

import pytest
from twisted.internet.error import CannotListenError

from rproxy.agent.agent import Agent
from rproxy.agent.agent_port import AgentPort
from rproxy.agent.environment import Environment
from rproxy.agent.registrar import Registration
from rproxy.wire.pdu import ProbeRequest, Unregister, encode
from tests.agent.bench import INSTANCE, PROXY, is_address
from tests.fakes import AGENT_PORT, Reactor, StubSampler, logged, run, texts


class PortBench:
    """An agent whose port has been opened, and changes from now on if it `alternates`."""

    def __init__(self, *, number: int = AGENT_PORT, alternates: bool = True) -> None:
        self.reactor = Reactor()
        environment = Environment(self.reactor, is_address, lambda: 0.0)
        self.agent = Agent(Registration(20, INSTANCE, 80), [PROXY], StubSampler(), environment)
        self.port = AgentPort(self.reactor, self.agent, "", number, alternates=alternates)
        self.port.open()
        self.port.start()

    @property
    def open_numbers(self) -> list[int]:
        return [port.getHost().port for port in self.reactor.open_ports]

    def registered_from(self) -> list[int]:
        """The ports that were open one after the other, as far as anything was registered from them."""
        opened = zip(self.reactor.ports, self.reactor.datagrams, strict=True)
        return [port.getHost().port for port, wire in opened if wire.sent]

    def probe(self) -> None:
        self.agent.datagramReceived(encode(ProbeRequest(0, 1)), PROXY)


def test_an_unprobed_agent_changes_its_port_every_minute_and_logs_it_once() -> None:
    with logged() as events:
        bench = PortBench()
        run(bench.reactor, 4 * 60 + 30)
    assert [port == AGENT_PORT for port in bench.registered_from()] == [True, False, True, False, True]
    assert len(bench.open_numbers) == 1
    assert [text for text in texts(events) if "nobody" in text] == [
        "nobody has probed this agent for 60 s: trying another UDP port, and 5555 again, in turn"
    ]


def test_a_change_after_a_probe_is_logged_again() -> None:
    with logged() as events:
        bench = PortBench()
        run(bench.reactor, 90)
        bench.probe()
        run(bench.reactor, 150)
    assert len([text for text in texts(events) if "nobody" in text]) == 2


def test_a_port_that_is_open_is_not_opened_again() -> None:
    bench = PortBench()
    bench.port.open()
    assert bench.open_numbers == [AGENT_PORT]


def test_a_port_that_cannot_be_opened_at_first_is_an_error() -> None:
    bench = PortBench()
    bench.port.stop()
    bench.reactor.taken.add(AGENT_PORT)
    with pytest.raises(CannotListenError):
        bench.port.open()


@pytest.mark.parametrize("number", [0, AGENT_PORT, 6666])
def test_one_that_does_not_alternate_stays(number: int) -> None:
    bench = PortBench(number=number, alternates=False)
    run(bench.reactor, 600)
    assert len(bench.registered_from()) == 1


def test_a_stop_unregisters_first() -> None:
    bench = PortBench()
    bench.port.stop()
    assert bench.reactor.datagrams[0].sent[-1] == (Unregister(80, INSTANCE), PROXY)
    assert bench.open_numbers == []


def test_one_that_was_stopped_can_be_started_again() -> None:
    bench = PortBench()
    bench.port.stop()
    bench.port.open()
    bench.port.start()
    run(bench.reactor, 70)
    assert len(bench.registered_from()) == 3


def test_an_agent_that_is_probed_stays_where_it_is() -> None:
    bench = PortBench()
    run(bench.reactor, 90)
    for _ in range(20):
        bench.probe()
        run(bench.reactor, 30)
    assert len(bench.registered_from()) == 2
    run(bench.reactor, 60)
    assert len(bench.registered_from()) == 3


def test_one_that_finds_its_port_taken_in_the_meantime_takes_any() -> None:
    bench = PortBench()
    run(bench.reactor, 70)
    bench.reactor.taken.add(AGENT_PORT)
    run(bench.reactor, 60)
    assert AGENT_PORT not in bench.registered_from()[1:]
    assert len(bench.open_numbers) == 1


def test_one_that_can_open_no_port_for_a_while_has_one_again_later() -> None:
    bench = PortBench()
    bench.reactor.taken |= {0, AGENT_PORT}
    run(bench.reactor, 70)
    assert bench.open_numbers == []
    bench.agent.drain()
    bench.reactor.taken.clear()
    run(bench.reactor, 10)
    assert len(bench.open_numbers) == 1
    assert bench.reactor.datagrams[-1].sent


def test_a_stop_at_any_time_leaves_nothing() -> None:
    for after_s in (59, 60, 61, 65, 70, 121, 125):
        bench = PortBench()
        run(bench.reactor, after_s)
        bench.port.stop()
        run(bench.reactor, 100)
        assert bench.open_numbers == []
        assert bench.reactor.getDelayedCalls() == []
