"""Several services in one process, on a reactor in memory."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.logger import LogLevel

from rproxy.config.model import ProxyConfig, ServiceConfig
from rproxy.net.addresses import Address
from rproxy.pool.backend import Registration
from rproxy.sources.saved.rows import Saved, encoded
from rproxy.tap.proxy import ProxyService
from rproxy.tap.startup import StartupError
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register, encode
from tests.fakes import Reactor, Stream, logged, run, texts
from tests.tap.services import AGENT, DRAIN_S, MONITOR, ended

WEB = ServiceConfig("web", ("8080",), 80, service_port=80, prefix="service[0].")
DB = ServiceConfig("db", ("5432", "[::1]:5433"), 5432, service_port=5432, prefix="service[1].")


class Bench:
    def __init__(self, *services: ServiceConfig, **settings: Any) -> None:
        self.reactor = Reactor()
        config = ProxyConfig(services=services, **{"monitors": (MONITOR,), "drain_timeout_s": DRAIN_S, **settings})
        self.service = ProxyService(self.reactor, config)

    def start(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()

    def backend_up(self, service_port: int, agent: Address = AGENT) -> None:
        self.service.monitor.datagramReceived(encode(Register(service_port, 20_000, instance=service_port)), agent)
        self.answer()

    def answer(self) -> None:
        """Have the agents answer the probes that were sent."""
        for request, address in self.reactor.datagrams[-1].take():
            assert isinstance(request, ProbeRequest)
            answer = ProbeResponse(request.sequence, request.token, 10, 20, None, 0)
            self.service.monitor.datagramReceived(encode(answer), address)

    def client(self, port: int) -> Stream:
        (factory,) = (factory for number, factory, *_ in self.reactor.tcpServers if number == port)
        protocol = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 4321))
        assert protocol is not None
        client = Stream(self.reactor, protocol)
        protocol.makeConnection(client)
        return client

    def opened(self) -> list[tuple[str, int]]:
        return [(at.type, at.port) for at in (port.getHost() for port in self.reactor.open_ports)]


def test_each_service_has_its_listeners_its_agents_and_its_clients() -> None:
    bench = Bench(WEB, DB)
    bench.start()
    assert bench.opened() == [("UDP", 5555), ("TCP", 8080), ("TCP", 5432), ("TCP", 5433)]
    bench.backend_up(80)
    bench.backend_up(5432, ("10.0.0.2", 5555))
    bench.client(5433)
    bench.client(8080)
    assert [connector.address for connector in bench.reactor.connects] == [("10.0.0.2", 5432), ("10.0.0.1", 80)]


def test_the_status_has_each_service_and_what_it_had_of_all() -> None:
    bench = Bench(WEB, DB)
    bench.start()
    bench.backend_up(80)
    for port in (8080, 8080, 5432):
        bench.client(port)
        if port == 8080:
            bench.reactor.connects[-1].succeed()
    shown = bench.service.status()
    assert [(row["service"], row["address"], row["port"]) for row in shown["backends"]] == [("web", "10.0.0.1", 80)]
    web, db = shown["services"]
    assert (web["name"], web["known"], web["eligible"], web["sessions"], web["waiting"]) == ("web", 1, 1, 2, 0)
    assert (db["name"], db["known"], db["eligible"], db["sessions"], db["waiting"]) == ("db", 0, 0, 1, 1)
    assert shown["connections"]["now"] == 3
    run(bench.reactor, 6)
    shown = bench.service.status()
    assert [each["counters"]["sessions"] for each in shown["services"]] == [{}, {"no-backend": 1}]
    assert shown["counters"]["sessions"] == {"no-backend": 1}
    assert [each["sessions"] for each in shown["services"]] == [2, 0]


def test_lines_about_a_service_bear_its_name() -> None:
    bench = Bench(WEB, DB)
    with logged() as events:
        bench.start()
        bench.backend_up(80)
        bench.client(5432)
        run(bench.reactor, 6)
    assert texts(events)[:4] == [
        "listening for agents on UDP 10.1.1.10:5555",
        "web: listening for clients on [::]:8080",
        "db: listening for clients on [::]:5432",
        "db: listening for clients on [::1]:5433",
    ]
    assert "web: back-end 10.0.0.1:80: registered -> up (answered a probe; agent 10.0.0.1:5555)" in texts(events)
    assert "db: 1 client(s) turned away: no back-end is up; 0 of 0 back-ends may be used" in texts(events)


@pytest.mark.parametrize(("taken", "named"), [(8080, "service[0].listen 8080"), (5433, "service[1].listen [::1]:5433")])
def test_a_taken_port_closes_those_of_all_services(taken: int, named: str) -> None:
    bench = Bench(WEB, DB)
    bench.reactor.taken.add(taken)
    with pytest.raises(StartupError) as raised:
        bench.start()
    assert str(raised.value) == f"cannot listen on {named}: Address already in use"
    assert bench.opened() == []
    assert bench.reactor.getDelayedCalls() == []


def test_a_stop_drains_all_services_and_leaves_no_timer() -> None:
    bench = Bench(WEB, DB)
    bench.start()
    for port in (80, 5432):
        bench.backend_up(port)
    for port in (8080, 5432):
        bench.client(port)
        bench.reactor.connects[-1].succeed()
    stopped = ended(bench.service.stopService())
    run(bench.reactor, DRAIN_S / 2)
    assert (stopped, bench.opened()) == ([], [("UDP", 5555)])
    run(bench.reactor, DRAIN_S)
    assert (len(stopped), bench.opened()) == (1, [])
    assert bench.reactor.getDelayedCalls() == []
    assert [each["sessions"] for each in bench.service.status()["services"]] == [0, 0]


def test_without_a_service_that_takes_agents_no_udp_port_is_opened_and_nobody_is_asked_who_may_register() -> None:
    static = [ServiceConfig(name, (str(port),), takes_agents=False) for name, port in (("a", 8081), ("b", 8082))]
    bench = Bench(*static, monitors=(("", 5555),))
    with logged() as events:
        bench.start()
    assert bench.opened() == [("TCP", 8081), ("TCP", 8082)]
    assert [event for event in events if event["log_level"] is LogLevel.warn] == []
    assert len(ended(bench.service.stopService())) == 1
    run(bench.reactor, 0)
    assert bench.reactor.getDelayedCalls() == []


NEAR = (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("services", "settings", "warned"),
    [
        ([WEB, DB], {}, True),
        ([ServiceConfig("web", allow=NEAR), ServiceConfig("db", allow=NEAR)], {}, False),
        ([ServiceConfig("web", allow=NEAR), ServiceConfig("db")], {}, True),
        ([ServiceConfig("web", allow=NEAR), ServiceConfig("db", takes_agents=False)], {}, False),
        ([WEB, DB], {"allow": NEAR}, False),
        ([WEB, DB], {"monitors": (("127.0.0.1", 5555), ("::1", 5556))}, False),
        ([WEB, DB], {"monitors": (("127.0.0.1", 5555), ("10.1.1.10", 5555))}, True),
    ],
)
def test_a_service_open_to_any_host_is_warned_about_once(
    services: list[ServiceConfig], settings: dict[str, Any], warned: bool
) -> None:
    bench = Bench(*services, **settings)
    with logged() as events:
        bench.start()
    assert len([event for event in events if event["log_level"] is LogLevel.warn]) == warned


def test_agents_may_register_at_several_addresses() -> None:
    bench = Bench(WEB, monitors=(("10.1.1.10", 5555), ("10.2.1.10", 6666)))
    with logged() as events:
        bench.start()
    assert texts(events)[:2] == [
        "listening for agents on UDP 10.1.1.10:5555",
        "listening for agents on UDP 10.2.1.10:6666",
    ]
    first, second = bench.reactor.datagrams
    port: Any = bench.reactor.open_ports[1]
    port._protocol.datagramReceived(encode(Register(80, 20_000, instance=1)), AGENT)
    assert (len(first.take()), len(second.take())) == (0, 1)
    assert len(ended(bench.service.stopService())) == 1
    assert bench.opened() == []


def test_a_second_address_for_agents_that_is_taken_closes_the_first() -> None:
    bench = Bench(WEB, monitors=(("10.1.1.10", 5555), ("10.2.1.10", 6666)))
    bench.reactor.taken.add(6666)
    with pytest.raises(
        StartupError, match=r"^cannot listen on --monitor 10.2.1.10:6666 \(UDP\): Address already in use$"
    ):
        bench.start()
    assert bench.opened() == []


def test_each_service_gets_its_own_rows_of_the_state_file_back(tmp_path: Path) -> None:
    state = tmp_path / "state"
    registrations = {
        ("10.0.0.1", 80): Registration(("10.0.0.1", 5555), 7, 300.0, 100),
        ("10.0.0.2", 5432): Registration(("10.0.0.2", 5555), 8, 300.0, 100),
        ("10.0.0.3", 9000): Registration(("10.0.0.3", 5555), 9, 300.0, 100),
    }
    state.write_bytes(b"".join(encoded(Saved(registrations), 10)))
    bench = Bench(WEB, DB, state_file=str(state))
    bench.start()
    bench.reactor.run()
    bench.reactor.advance(0)
    for request, address in bench.reactor.datagrams[0].take():
        assert isinstance(request, ProbeRequest)
        answer = ProbeResponse(request.sequence, request.token, 10, 20, None, 0)
        bench.service.monitor.datagramReceived(encode(answer), address)
    assert [(row["service"], row["address"], row["state"]) for row in bench.service.status()["backends"]] == [
        ("web", "10.0.0.1", "up"),
        ("db", "10.0.0.2", "up"),
    ]
