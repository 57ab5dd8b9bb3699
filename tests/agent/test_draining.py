"""When an agent asks for no new clients: because of its file, its service, or both."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rproxy.agent.agent import Agent
from rproxy.agent.check_loop import INTERVAL_S, Check, CheckFailed
from rproxy.agent.draining import Draining
from rproxy.agent.environment import Environment
from rproxy.agent.registrar import Registration
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register, encode
from tests.agent.bench import INSTANCE, PROXY, is_address
from tests.fakes import Datagrams, StubSampler, logged, run, texts


class Service:
    """A check that passes, fails or, if `well` is None, never ends."""

    timeout_reason = "no answer"

    def __init__(self) -> None:
        self.well: bool | None = True
        self.checks = 0

    async def run(self) -> None:
        self.checks += 1
        if self.well is None:
            await Deferred()
        if not self.well:
            raise CheckFailed("refused")

    def stop(self) -> None:
        """Nothing outlives a check."""


@pytest.fixture
def service() -> Service:
    return Service()


class DrainBench:
    """An agent that registers when it is started, and when it drains."""

    def __init__(self, check: Check | None = None, *, drain_file: Path | None = None) -> None:
        self.clock = Clock()
        environment = Environment(self.clock, is_address, lambda: 0.0)
        self.agent = Agent(Registration(1000, INSTANCE, 80), [PROXY], StubSampler(), environment)
        self.draining = Draining(self.clock, self.agent, None if drain_file is None else str(drain_file), check)
        self.transport = Datagrams()
        self.agent.makeConnection(self.transport)
        self.draining.start()


def said(bench: DrainBench) -> list[bool]:
    """The draining bit of the registrations since the last call."""
    return [pdu.draining for pdu, _ in bench.transport.take() if isinstance(pdu, Register)]


def probe(bench: DrainBench) -> bool:
    """Whether the answer to a probe asks for no new clients."""
    bench.agent.datagramReceived(encode(ProbeRequest(0, 1)), PROXY)
    (answer,) = [pdu for pdu, _ in bench.transport.take() if isinstance(pdu, ProbeResponse)]
    return answer.draining


def test_an_agent_whose_service_is_well_registers_at_once_and_says_no_more_of_it(service: Service) -> None:
    with logged() as events:
        bench = DrainBench(service)
        assert said(bench) == [False]
        run(bench.clock, 0.5)
    assert said(bench) == []
    assert texts(events) == []


def test_an_agent_whose_service_is_not_there_yet_registers_for_no_clients_until_it_is(service: Service) -> None:
    service.well = False
    with logged() as events:
        bench = DrainBench(service)
        assert said(bench) == [True]
        assert probe(bench) is True
        service.well = True
        run(bench.clock, INTERVAL_S + 0.5)
        assert probe(bench) is True
        run(bench.clock, INTERVAL_S)
    assert said(bench)[-1] is False
    assert texts(events)[-3:] == [
        "the service fails its check (refused): asking for no new clients",
        "10.1.1.10:5555 probes this agent",
        "the service passes its check again: clients may come",
    ]


def test_nothing_is_registered_before_the_first_check_has_ended(service: Service) -> None:
    service.well = None
    bench = DrainBench(service)
    run(bench.clock, 0.9)
    assert said(bench) == []
    run(bench.clock, 0.2)
    assert said(bench) == [True]


def test_a_service_that_hangs_and_comes_back(service: Service) -> None:
    with logged() as events:
        bench = DrainBench(service)
        probe(bench)
        service.well = None
        run(bench.clock, 3 * INTERVAL_S + 0.5)
        assert said(bench) == []
        run(bench.clock, 1)
        assert said(bench) == [True]
        assert probe(bench) is True
        service.well = True
        run(bench.clock, 2 * INTERVAL_S)
        assert said(bench) == [False]
        assert probe(bench) is False
    assert [text for text in texts(events) if "check" in text] == [
        "the service fails its check (no answer (within 1 s)): asking for no new clients",
        "the service passes its check again: clients may come",
    ]


@pytest.mark.parametrize("first", ["file", "service"])
def test_clients_may_come_when_neither_the_file_nor_the_service_says_no(
    service: Service, tmp_path: Path, first: str
) -> None:
    file = tmp_path / "drain"
    with logged() as events:
        bench = DrainBench(service, drain_file=file)
        file.touch()
        run(bench.clock, 1)
        service.well = False
        run(bench.clock, 3 * INTERVAL_S)
        assert [wish for wish, _ in groupby(said(bench))] == [False, True]
        for what in (first, {"file": "service", "service": "file"}[first]):
            if what == "file":
                file.unlink()
            service.well = service.well or what == "service"
            assert probe(bench) is True
            run(bench.clock, 2 * INTERVAL_S)
        assert probe(bench) is False
    here, gone = f"{file} is there", f"{file} is gone"
    fails, passes = "the service fails its check (refused)", "the service passes its check again"
    still = "still asking for no new clients, as"
    assert [text for text in texts(events) if "clients" in text] == [
        f"{here}: asking for no new clients",
        f"{fails}: asking for no new clients",
        *(
            [f"{gone}: {still} {fails}", f"{passes}: clients may come"]
            if first == "file"
            else [f"{passes}: {still} {here}", f"{gone}: clients may come"]
        ),
    ]


def test_a_stop_ends_the_checks_and_the_look_for_the_file(service: Service, tmp_path: Path) -> None:
    service.well = None
    bench = DrainBench(service, drain_file=tmp_path / "drain")
    bench.draining.stop()
    bench.agent.stopProtocol()
    run(bench.clock, 10)
    assert service.checks == 1
    assert bench.clock.getDelayedCalls() == []


def test_an_agent_without_a_check_registers_at_once_and_runs_none() -> None:
    bench = DrainBench()
    assert said(bench) == [False]
    bench.agent.stopProtocol()
    assert bench.clock.getDelayedCalls() == []
