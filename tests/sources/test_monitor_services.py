"""Several services: which registrations are whose, and what they share about one back-end."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from itertools import count
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.net.addresses import Address, Network
from rproxy.observe.publisher import Publisher
from rproxy.policies.two_choices import sessions_known
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.limits import Limits
from rproxy.pool.states import State
from rproxy.sources.agents.further_port import FurtherPort
from rproxy.sources.agents.monitor import Monitor, Settings
from rproxy.sources.agents.prober import Timing
from rproxy.sources.agents.service_agents import TOKEN_BITS, ServiceAgents
from rproxy.sources.agents.service_agents import AgentFilter as Filter
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register, Unregister, encode
from rproxy.wire.seal import Unsealed
from tests.fakes import AGENT_PORT, Datagrams, logged, pool_of, run, texts

HOST = "10.1.1.7"
AGENT: Address = (HOST, AGENT_PORT)
NEAR: tuple[Network, ...] = (ip_network("10.1.1.0/24"),)
FAR: tuple[Network, ...] = (ip_network("10.2.0.0/16"),)


class Bench:
    """A monitor with one service for each of `own`."""

    def __init__(
        self,
        *own: Filter,
        allow: tuple[Network, ...] = (),
        default_port: int = 80,
        freshness_s: float | None = None,
    ) -> None:
        self.clock = Clock()
        tokens = count(1)
        timing = Timing(freshness_s=freshness_s)
        self.monitor = Monitor(
            self.clock,
            lambda: next(tokens),
            lambda: 0.5,
            Unsealed(),
            Settings(timing, allow, leads_here=lambda service: service == (HOST, 9999)),
        )
        self.services = [self.add(each, default_port) for each in own]
        self.transport = Datagrams()
        self.transport.on_write = self._sent
        self.probes: list[ProbeRequest] = []
        """Those that agents were sent while `answering`, which they do at once."""
        self.answering = False
        self.others: int | None = None
        """Sessions of others, as agents tell."""
        self.monitor.makeConnection(self.transport)

    def add(self, own: Filter, default_port: int = 80, **options: Any) -> ServiceAgents:
        publish = Publisher()
        agents = self.monitor.add(pool_of(default_port=default_port, **options), publish, own)
        publish.subscribe(agents.observers())
        return agents

    def receive(self, pdu: Any, source: Address = AGENT, local: str = "") -> None:
        self.monitor.datagramReceived(encode(pdu), source, local)

    def register(self, service_port: int, source: Address = AGENT, instance: int = 1) -> list[list[Address]]:
        """What each service has then."""
        self.receive(Register(service_port, 20_000, instance), source)
        return self.rows()

    def rows(self) -> list[list[Address]]:
        return [[(row.address, row.port) for row in agents.pool] for agents in self.services]

    def _sent(self, pdu: object, address: Address) -> None:
        if self.answering:
            assert isinstance(pdu, ProbeRequest)
            self.probes.append(pdu)
            self.clock.callLater(0, self.receive, self.answer(pdu), address)

    def answer(self, probe: ProbeRequest) -> ProbeResponse:
        return ProbeResponse(probe.sequence, probe.token, 10, 20, None, 7, others=self.others)

    def run(self, seconds: float) -> list[ProbeRequest]:
        """The probes that agents are sent meanwhile. They answer."""
        self.answering = True
        run(self.clock, seconds)
        self.answering = False
        probes, self.probes = self.probes, []
        return probes

    def answer_all(self) -> list[ProbeRequest]:
        """Answer every probe that was sent, and return them."""
        sent = self.transport.take()
        probes = []
        for pdu, address in sent:
            assert isinstance(pdu, ProbeRequest)
            self.receive(self.answer(pdu), address)
            probes.append(pdu)
        return probes

    def up(self, service_port: int = 80) -> list[Backend]:
        """The rows of a back-end that has registered, and answered."""
        self.register(service_port)
        self.answer_all()
        rows = [row for agents in self.services for row in agents.pool]
        assert all(row.state is State.UP for row in rows)
        return rows

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.monitor.counters.dropped)


ROW = [(HOST, 80)]


@pytest.mark.parametrize(
    ("own", "service_port", "rows"),
    [
        pytest.param([Filter()], 8000, [[(HOST, 8000)]], id="one service takes every port"),
        pytest.param([Filter(80), Filter(8000)], 80, [ROW, []], id="by port"),
        pytest.param([Filter(80), Filter(8000)], 8000, [[], [(HOST, 8000)]], id="by the other port"),
        pytest.param([Filter(80, NEAR), Filter(80, FAR)], 80, [ROW, []], id="by network"),
        pytest.param([Filter(80, FAR), Filter(80, NEAR)], 80, [[], ROW], id="by the other network"),
        pytest.param([Filter(80), Filter(80, NEAR)], 80, [ROW, ROW], id="of both"),
        pytest.param([Filter(80), Filter(80)], 0, [ROW, []], id="port 0 is the first one's"),
        pytest.param([Filter(80, FAR), Filter(80)], 0, [[], ROW], id="port 0 is the first one's that takes the host"),
        pytest.param(
            [Filter(takes_agents=False), Filter(80)],
            0,
            [[], ROW],
            id="port 0 is the first one's that takes any",
        ),
        pytest.param([Filter(takes_agents=False), Filter(80)], 80, [[], ROW], id="not one's without agents"),
    ],
)
def test_a_registration_is_of_every_service_that_takes_it(
    own: Sequence[Filter], service_port: int, rows: list[list[Address]]
) -> None:
    bench = Bench(*own)
    assert bench.register(service_port) == rows
    assert bench.monitor.counters.accepted == {"register": 1}
    assert bench.dropped == {}


def test_port_0_stands_for_the_back_end_port_of_the_service_that_takes_it() -> None:
    bench = Bench(Filter(8000), Filter(80), default_port=8000)
    assert bench.register(0) == [[(HOST, 8000)], []]


@pytest.mark.parametrize(
    ("own", "allow", "service_port", "reason"),
    [
        ([Filter(80), Filter(8000)], (), 9000, "no-service"),
        ([Filter(80, FAR), Filter(8000)], (), 80, "not-allowed"),
        ([Filter(80), Filter(8000)], FAR, 80, "not-allowed"),
        ([Filter(80, takes_agents=False)], (), 80, "no-service"),
        ([Filter(80, takes_agents=False)], (), 0, "no-service"),
        ([Filter(), Filter(80)], (), 9999, "own-listener"),
    ],
)
def test_what_no_service_takes_is_counted_by_reason_and_changes_nothing(
    own: Sequence[Filter], allow: tuple[Network, ...], service_port: int, reason: str
) -> None:
    bench = Bench(*own, allow=allow)
    assert bench.register(service_port) == [[]] * len(own)
    assert (bench.dropped, bench.monitor.counters.accepted) == ({reason: 1}, {})
    assert bench.transport.take() == []


def test_an_agent_for_no_service_is_logged() -> None:
    bench = Bench(Filter(80), Filter(8000))
    with logged() as events:
        bench.register(9000)
    assert texts(events) == [f"dropped 1 datagram(s): no-service; the last one came from {HOST}"]


def test_one_service_that_refuses_a_registration_keeps_it_from_no_other() -> None:
    bench = Bench()
    bench.services = [bench.add(Filter(80), limits=Limits(unconfirmed=0)), bench.add(Filter(80))]
    assert bench.register(80) == [[], ROW]
    assert (bench.dropped, bench.monitor.counters.accepted) == ({}, {"register": 1})


def test_each_answer_counts_in_the_service_whose_probe_it_is_of() -> None:
    bench = Bench(Filter(80), Filter(8000))
    bench.register(80)
    bench.register(8000, ("10.1.1.8", AGENT_PORT), instance=2)
    probes = bench.answer_all()
    assert [probe.token >> TOKEN_BITS for probe in probes] == [agents.number for agents in bench.services]
    assert [[row.state for row in agents.pool] for agents in bench.services] == [[State.UP], [State.UP]]
    assert bench.dropped == {}


def test_a_token_of_no_service_is_unknown() -> None:
    bench = Bench(Filter(80))
    bench.register(80)
    ((probe, _),) = bench.transport.take()
    assert isinstance(probe, ProbeRequest)
    bench.receive(ProbeResponse(probe.sequence, probe.token | 1 << TOKEN_BITS, 10, 20, None, 7))
    assert bench.dropped == {"unknown": 1}


def test_one_back_end_in_two_services_is_two_rows_with_probes_of_their_own() -> None:
    bench = Bench(Filter(80), Filter(80))
    first, second = bench.up()
    assert first is not second
    assert len(bench.run(5.5)) == 2
    assert bench.monitor.counters.probes["periodic"] == 2


def test_its_probes_are_of_one_sequence_and_bear_the_sessions_of_all_services() -> None:
    bench = Bench(Filter(80), Filter(80))
    first, second = bench.services
    bench.up()
    for agents, sessions in ((first, 2), (second, 3)):
        for _ in range(sessions):
            assert agents.pool.choose(bench.clock.seconds()) is not None
    probes = bench.run(16)
    assert [(probe.sequence, probe.sessions) for probe in probes] == [(number, 5) for number in range(2, 8)]


def test_its_probes_bear_the_clients_that_wait_for_it_in_any_service() -> None:
    bench = Bench(Filter(80), Filter(80))
    first, second = bench.services
    rows = bench.up()
    first.pool.limit_each(2, bench.clock.seconds())
    for agents in (first, first, second):
        assert agents.pool.choose(bench.clock.seconds()) is not None
    first.pool.clients_wait(4)
    second.pool.clients_wait(7)  # for another one: here, it has room
    bench.others = 10
    assert {probe.sessions for probe in bench.run(16)} == {2 + 4 + 1}
    assert [row.report.others for row in rows] == [10 + 1, 10 + 2 + 4]


def test_to_a_service_the_sessions_of_another_one_are_others() -> None:
    bench = Bench(Filter(80), Filter(80))
    rows = bench.up()
    for agents, sessions in zip(bench.services, (2, 3), strict=True):
        for _ in range(sessions):
            agents.pool.choose(bench.clock.seconds())
    bench.others = 4
    bench.run(5.5)
    assert [row.report.others for row in rows] == [4 + 3, 4 + 2]


def test_an_agent_that_unregisters_leaves_every_service() -> None:
    bench = Bench(Filter(80), Filter(80, NEAR), Filter(8000))
    bench.up()
    bench.receive(Unregister(80, instance=1))
    assert bench.rows() == [[], [], []]
    assert bench.dropped == {}
    bench.receive(Unregister(80, instance=1))
    assert bench.dropped == {"unknown": 1}


def test_an_agent_that_does_not_know_its_port_leaves_the_service_that_it_is_in() -> None:
    bench = Bench(Filter(80), Filter(80))
    bench.register(0)
    bench.answer_all()
    bench.receive(Unregister(0, instance=1))
    assert bench.rows() == [[], []]
    assert bench.dropped == {}


def test_what_leads_back_here_is_excluded_from_every_service() -> None:
    bench = Bench(Filter(80), Filter(80))
    first, _ = bench.up()
    bench.monitor.exclude(first)
    assert bench.rows() == [[], []]


def test_restored_rows_go_to_the_services_that_take_them() -> None:
    bench = Bench(Filter(80), Filter(8000), Filter(80, FAR))
    rows = [(Registration(AGENT, 1, 20.0, 100), 80), (Registration(("10.1.1.8", 5), 2, 20.0, 100), 8000)]
    for registration, port in rows:
        assert bench.monitor.is_unconfirmed(registration, port)
    bench.monitor.restore(rows)
    assert bench.rows() == [ROW, [("10.1.1.8", 8000)], []]
    assert all(bench.monitor.is_restoring(*row) for row in rows)
    bench.answer_all()
    assert not any(bench.monitor.is_restoring(*row) or bench.monitor.is_unconfirmed(*row) for row in rows)


def test_a_row_that_no_service_takes_is_not_restored() -> None:
    bench = Bench(Filter(8000), allow=NEAR)
    row = (Registration(AGENT, 1, 20.0, 100), 80)
    bench.monitor.restore([row])
    assert not bench.monitor.is_unconfirmed(*row)
    assert bench.rows() == [[]]


def test_a_service_that_goes_leaves_no_timer_and_its_number_is_used_again() -> None:
    bench = Bench(Filter(80))
    timers = len(bench.clock.calls)
    other = bench.add(Filter(8000))
    bench.register(8000)
    assert len(bench.clock.calls) > timers
    bench.monitor.remove(other)
    run(bench.clock, 0.6)
    assert len(bench.clock.calls) == timers
    assert bench.add(Filter(9000)).number == other.number


def test_a_service_that_leaves_keeps_its_back_ends_and_takes_no_others() -> None:
    bench = Bench(Filter(80), Filter(8000))
    bench.up(80)
    leaving = bench.services[0]
    leaving.is_leaving = True
    bench.register(80)
    bench.register(80, ("10.1.1.8", AGENT_PORT), instance=2)
    assert bench.rows() == [ROW, []]
    assert bench.dropped == {"no-service": 1}


def test_services_are_asked_in_the_order_of_the_configuration() -> None:
    bench = Bench(Filter(80), Filter(80))
    first, second = bench.services
    bench.monitor.arrange([second, first])
    bench.register(0)
    assert bench.rows() == [[], ROW]


def test_the_budget_of_probes_on_demand_is_that_of_all_services_together() -> None:
    def asked(*own: Filter) -> int:
        bench = Bench(*own, freshness_s=0.1)
        bench.monitor.demand_limit.rate = 10.0
        bench.monitor.demand_limit.burst = 1
        for number in range(1, 6):
            bench.register(80, (f"10.1.1.{number}", AGENT_PORT), instance=number)
        bench.run(1)
        for _ in range(40):
            for agents in bench.services:
                assert agents.pool.choose(bench.clock.seconds()) is not None
            bench.run(0.05)
        return bench.monitor.counters.probes["on_demand"]

    alone, together = asked(Filter(80)), asked(Filter(80), Filter(80))
    assert 15 <= alone <= 21
    assert together <= 21


class TestEntrances:
    """Several UDP ports: probes leave from the one that the agent registers at."""

    def entered(self) -> tuple[Bench, FurtherPort, Datagrams]:
        bench = Bench(Filter())
        port = FurtherPort(bench.monitor, ("10.1.1.10", 6666))
        transport = Datagrams()
        port.makeConnection(transport)
        return bench, port, transport

    def test_probes_leave_from_where_the_registration_came(self) -> None:
        bench, port, transport = self.entered()
        port.datagramReceived(encode(Register(80, 20_000, 1)), AGENT)
        assert (len(transport.take()), len(bench.transport.take())) == (1, 0)
        bench.register(80, ("10.1.1.8", AGENT_PORT), instance=2)
        run(bench.clock, 0.1)
        assert (len(transport.take()), len(bench.transport.take())) == (0, 1)

    def test_an_answer_may_come_by_either(self) -> None:
        bench, port, transport = self.entered()
        port.datagramReceived(encode(Register(80, 20_000, 1)), AGENT)
        ((probe, _),) = transport.take()
        assert isinstance(probe, ProbeRequest)
        port.datagramReceived(encode(ProbeResponse(probe.sequence, probe.token, 1, 2, None, 3)), AGENT)
        (row,) = bench.services[0].pool
        assert (row.state, row.registration.local) == (State.UP, "@10.1.1.10:6666")

    def test_one_that_is_no_longer_open_is_replaced_by_the_first(self) -> None:
        bench, port, transport = self.entered()
        port.datagramReceived(encode(Register(80, 20_000, 1)), AGENT, "10.1.1.11")
        transport.take()
        (row,) = bench.services[0].pool
        assert bench.monitor.way(row.registration.local) == (transport, "10.1.1.11")
        port.doStop()
        assert bench.monitor.way(row.registration.local) == (bench.transport, "")


def test_a_policy_that_counts_others_sees_the_sessions_of_the_other_service() -> None:
    bench = Bench(Filter(80), Filter(80))
    first, _ = bench.up()
    for _ in range(6):
        bench.services[1].pool.choose(bench.clock.seconds())
    bench.run(5.5)
    assert sessions_known(first) == 6
