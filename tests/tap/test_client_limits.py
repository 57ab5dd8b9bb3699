"""Rules for clients and the limit of a service, from its configuration, also a changed one."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from rproxy.config.model import ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.sessions.service import Service
from rproxy.tap.client_limits import ClientLimits
from rproxy.tap.outbound import OutboundPart, SourceLog
from rproxy.tap.startup import StartupError
from rproxy.timing.rate_limit import LOG_EVERY_S
from tests.fakes import Stream, logged, run, texts
from tests.tap.services import ProxyBench, ended

MISSING = "192.0.2.77"


def limits_of(bench: ProxyBench) -> ClientLimits:
    (wiring,) = bench.service._services
    return wiring.clients


def outbound_of(bench: ProxyBench) -> OutboundPart:
    (wiring,) = bench.service._services
    return wiring.outbound


def service_of(bench: ProxyBench) -> Service:
    return bench.service.service


def visit(bench: ProxyBench, host: str = "192.0.2.1") -> Stream:
    protocol = bench.reactor.tcpServers[0][1].buildProtocol(IPv4Address("TCP", host, 4321))
    assert protocol is not None
    client = Stream(bench.reactor, protocol)
    client.peerAddr = IPv4Address("TCP", host, 4321)
    protocol.makeConnection(client)
    run(bench.reactor, 0)
    return client


@pytest.fixture
def bench() -> ProxyBench:
    bench = ProxyBench(carrier="portable")
    bench.start()
    bench.backend_up()
    return bench


def test_without_rules_there_is_no_gate(bench: ProxyBench) -> None:
    service = service_of(bench)
    assert service.gate is None
    assert service.capacity.sessions_max == SESSIONS_MAX
    assert bench.service.status()["counters"]["refused"] == {}


def test_a_client_that_is_refused_is_reset_and_counted_by_reason() -> None:
    bench = ProxyBench(
        carrier="portable",
        clients=(ip_network("192.0.2.0/24"), ip_network("10.0.0.0/8")),
        deny=(ip_network("10.9.0.0/16"),),
        max_connections_per_client=1,
    )
    bench.start()
    bench.backend_up()
    with logged():
        clients = [visit(bench, host) for host in ("192.0.2.1", "192.0.2.1", "10.9.0.1", "172.16.0.1", "10.8.0.1")]
    assert [bool(client.connected) for client in clients] == [True, False, False, False, True]
    counters = bench.service.status()["counters"]
    assert counters["refused"] == {"max-connections-per-client": 1, "deny": 1, "clients": 1}
    assert counters["sessions"] == {"denied": 3}
    assert len(bench.reactor.connects) == 2


def test_rules_that_come_later_count_the_clients_that_are_there(bench: ProxyBench) -> None:
    """One is connected, and one is connecting."""
    clients = [visit(bench), visit(bench)]
    bench.reactor.connects[0].succeed()
    limits_of(bench).apply(ServiceConfig(max_connections_per_client=3))
    run(bench.reactor, 0)
    bench.reactor.connects[1].succeed()
    with logged():
        assert [bool(visit(bench).connected) for _ in range(2)] == [True, False]
        clients[0].reset()
        run(bench.reactor, 1)
        assert [bool(visit(bench).connected) for _ in range(2)] == [True, False]


def test_rules_that_go_leave_the_counts_right(bench: ProxyBench) -> None:
    limits = limits_of(bench)
    limits.apply(ServiceConfig(max_connections_per_client=2))
    clients = [visit(bench), visit(bench)]
    limits.apply(ServiceConfig())
    clients += [visit(bench), visit(bench)]
    assert all(client.connected for client in clients)
    limits.apply(ServiceConfig(max_connections_per_client=4))
    with logged():
        assert not visit(bench).connected
        clients.pop().reset()
        run(bench.reactor, 1)
        assert visit(bench).connected


def test_the_services_own_limit_can_be_ServiceConfig(bench: ProxyBench) -> None:
    limits, capacity = limits_of(bench), service_of(bench).capacity
    limits.apply(ServiceConfig(max_connections=7))
    assert capacity.sessions_max == 7
    limits.apply(ServiceConfig())
    assert capacity.sessions_max == SESSIONS_MAX


def test_a_stop_leaves_no_timer_of_the_gates_log(bench: ProxyBench) -> None:
    limits_of(bench).apply(ServiceConfig(deny=(ip_network("0.0.0.0/0"),)))
    with logged() as events:
        for _ in range(3):
            visit(bench)
        stopped = ended(bench.service.stopService())
        run(bench.reactor, 60)
    assert stopped
    assert [line for line in texts(events) if "refused" in line] == [
        "1 client(s) refused: deny (1); most often 192.0.2.1 (1)",
        "2 client(s) refused: deny (2); most often 192.0.2.1 (2)",
    ]
    assert bench.reactor.getDelayedCalls() == []


def test_a_source_that_this_host_lacks_is_an_error_before_anything_is_opened() -> None:
    with pytest.raises(ConfigError) as error:
        ProxyBench(source=("127.0.0.1", MISSING))
    assert str(error.value) == f"--source {MISSING}: this host does not have this address"
    ProxyBench(source=(MISSING,), freebind=True).start()


def test_a_changed_source_that_cannot_be_used_changes_nothing(bench: ProxyBench) -> None:
    outbound, service = outbound_of(bench), service_of(bench)
    outbound.apply(ServiceConfig(source=("127.0.0.5",)))
    before = service.outbound
    with pytest.raises(ConfigError):
        outbound.apply(ServiceConfig(source=(MISSING,)))
    assert service.outbound is before
    outbound.apply(ServiceConfig())
    assert service.outbound.source is None


def test_privileges_that_were_shed_are_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ProxyBench(source=("127.0.0.5",))
    bench.service.privilegedStartService()
    monkeypatch.setattr("rproxy.net.outgoing._bindable", lambda host: (MISSING, 0))
    with pytest.raises(StartupError, match=r"--source 127\.0\.0\.5: this host does not have this address"):
        bench.service.startService()


def test_a_source_is_logged_seldom() -> None:
    clock = Clock()
    log = SourceLog(clock.seconds)
    with logged() as events:
        for _ in range(2):
            for _ in range(3):
                log("127.0.0.5", "cannot connect from 127.0.0.5 to here")
                log("127.0.0.6", "cannot connect from 127.0.0.6 to there")
            clock.advance(LOG_EVERY_S)
    assert texts(events) == ["cannot connect from 127.0.0.5 to here", "cannot connect from 127.0.0.6 to there"] * 2
