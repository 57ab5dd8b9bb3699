"""What `twistd rproxy-agent` starts, on a reactor in memory: which ports are opened and closed, and when."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from rproxy.agent.host_figures import PsutilFigures
from rproxy.agent.scope import Scope
from rproxy.agent.service_checks import CommandCheck, ConnectCheck, HttpCheck
from rproxy.config.model import AgentConfig
from rproxy.tap.agent import AgentService
from rproxy.tap.startup import StartupError
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register, Unregister, encode
from tests.fakes import Reactor, logged, run, texts
from tests.tap.services import MONITOR, AgentBench, ended


def test_an_agent_opens_its_port_before_it_sheds_its_privileges_once_and_registers() -> None:
    bench = AgentBench(start=False, port=6666, service_port=8000, weight=7, interval_s=30)
    bench.service.privilegedStartService()
    bench.service.startService()
    (port,) = bench.reactor.open_ports
    assert (port.getHost().port, port.getHost().host) == (6666, "0.0.0.0")
    ((pdu, address),) = bench.reactor.datagrams[0].sent
    assert isinstance(pdu, Register)
    assert (address, pdu.service_port, pdu.weight, pdu.interval_ms) == (MONITOR, 8000, 7, 30_000)


def test_an_agent_registers_its_limit_of_sessions() -> None:
    bench = AgentBench(max_connections=12)
    ((pdu, _),) = bench.reactor.datagrams[0].sent
    assert isinstance(pdu, Register)
    assert pdu.max_connections == 12


def test_an_agent_that_is_started_without_privileges_opens_its_port_too() -> None:
    bench = AgentBench(start=False)
    bench.service.startService()
    assert len(bench.reactor.open_ports) == 1


@pytest.mark.parametrize("proxy", [MONITOR, ("2001:db8::5", 5555)])
def test_an_agents_socket_is_on_every_address_of_both_families(proxy: tuple[str, int]) -> None:
    """As `listen_udp` has it, which knows of which families there are any."""
    bench = AgentBench(proxies=(proxy,))
    assert bench.reactor.ports[0].getHost().host == "0.0.0.0"


def test_an_agents_start_is_logged() -> None:
    with logged() as events:
        AgentBench(proxies=(MONITOR, ("::1", 6666)), interval_s=30)
    assert texts(events) == ["agent registers with 10.1.1.10:5555, [::1]:6666 every 30 s"]


def test_an_agents_taken_port_is_one_line_that_names_it() -> None:
    reactor = Reactor()
    reactor.taken.add(5555)
    with pytest.raises(StartupError) as raised:
        AgentBench(reactor)
    assert str(raised.value) == "cannot listen on --port 5555 (UDP): Address already in use"
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("report", "answer"), [({}, (1, 2, 3)), ({"cpu": 100}, (100, 2, 3)), ({"tcp": 0, "memory": 9}, (1, 9, 0))]
)
def test_an_agent_reports_its_host_or_what_it_was_told(report: dict[str, int], answer: tuple[int, ...]) -> None:
    bench = AgentBench(report=report)
    bench.service.agent.datagramReceived(encode(ProbeRequest(0, 1)), MONITOR)
    pdu = bench.reactor.datagrams[0].sent[-1][0]
    assert isinstance(pdu, ProbeResponse)
    assert (pdu.cpu, pdu.memory, pdu.tcp) == answer


def said_of_draining(bench: AgentBench) -> list[bool]:
    """In what it has sent since it was asked last."""
    pdus = [pdu for pdu, _ in bench.reactor.datagrams[0].take()]
    return [pdu.draining for pdu in pdus if isinstance(pdu, Register | ProbeResponse)]


def test_an_agent_drains_while_its_file_is_there(tmp_path: Path) -> None:
    """It registers at once when that has changed, and otherwise only at its interval."""
    file = tmp_path / "drain"
    with logged() as events:
        bench = AgentBench(drain_file=str(file))
        seen = [said_of_draining(bench)]
        for change in (file.touch, lambda: None, file.unlink):
            change()
            bench.service.agent.datagramReceived(encode(ProbeRequest(0, 1)), MONITOR)
            run(bench.reactor, 1)
            seen.append(said_of_draining(bench))
    assert seen == [[False], [False, True], [True], [True, False]]
    assert texts(events)[-2:] == [f"{file} is there: asking for no new clients", f"{file} is gone: clients may come"]


def test_an_agent_that_starts_while_its_file_is_there_registers_as_draining(tmp_path: Path) -> None:
    file = tmp_path / "drain"
    file.touch()
    with logged() as events:
        bench = AgentBench(drain_file=str(file))
    assert said_of_draining(bench) == [True]
    assert texts(events)[-1] == f"{file} is there: asking for no new clients"


@pytest.mark.parametrize("drain_file", [None, "drain"])
def test_an_agents_stop_unregisters_and_closes_its_port_and_leaves_no_timer(drain_file: str | None) -> None:
    bench = AgentBench(drain_file=drain_file)
    assert len(ended(bench.service.stopService())) == 1
    pdu = bench.reactor.datagrams[0].sent[-1][0]
    assert isinstance(pdu, Unregister)
    assert pdu.instance == bench.service.agent.registration.instance
    assert bench.reactor.open_ports == []
    assert bench.reactor.getDelayedCalls() == []


def test_an_agent_that_never_started_or_has_stopped_can_be_stopped() -> None:
    bench = AgentBench(start=False)
    assert len(ended(bench.service.stopService())) == 1
    assert bench.reactor.datagrams == []


def registered_from(bench: AgentBench) -> list[int]:
    """The UDP ports that were open one after the other, as far as anything was registered from them."""
    opened = zip(bench.reactor.ports, bench.reactor.datagrams, strict=True)
    return [port.getHost().port for port, wire in opened if wire.sent]


def test_an_unprobed_agent_changes_its_port_every_minute_and_logs_it_once() -> None:
    with logged() as events:
        bench = AgentBench()
        run(bench.reactor, 4 * 60 + 30)
    assert [port == 5555 for port in registered_from(bench)] == [True, False, True, False, True]
    assert len(bench.reactor.open_ports) == 1
    assert [text for text in texts(events) if "nobody" in text] == [
        "nobody has probed this agent for 60 s: trying another UDP port, and 5555 again, in turn"
    ]


@pytest.mark.parametrize("port", [0, 5555, 6666])
def test_a_port_that_was_chosen_is_kept(port: int) -> None:
    bench = AgentBench(port=port)
    run(bench.reactor, 600)
    assert len(registered_from(bench)) == 1


@pytest.mark.parametrize(
    ("check", "kind"), [("connect", ConnectCheck), ("http:/health", HttpCheck), ("command:true", CommandCheck)]
)
def test_a_service_is_checked_as_was_chosen_before_anything_is_registered(
    monkeypatch: pytest.MonkeyPatch, check: str, kind: type[ConnectCheck | HttpCheck | CommandCheck]
) -> None:
    running: Deferred[None] = Deferred()

    async def wait(_: object) -> None:
        await running

    monkeypatch.setattr(kind, "run", wait)
    bench = AgentBench(service_port=80, check=check)
    assert said_of_draining(bench) == []
    running.callback(None)
    assert said_of_draining(bench) == [False]


def test_a_service_that_is_not_to_be_checked_is_not() -> None:
    bench = AgentBench(service_port=80)
    assert said_of_draining(bench) == [False]
    run(bench.reactor, 10)
    assert bench.reactor.connects == []


def load_told(bench: AgentBench) -> int | None:
    """The service's load in the answer to a probe."""
    bench.service.agent.datagramReceived(encode(ProbeRequest(0, 1)), MONITOR)
    pdu = bench.reactor.datagrams[0].sent[-1][0]
    assert isinstance(pdu, ProbeResponse)
    assert (pdu.cpu, pdu.memory, pdu.tcp) == (1, 2, 3)
    return pdu.load


@pytest.mark.skipif(sys.platform != "linux", reason="sees the queue on Linux only")
def test_a_services_load_is_the_fill_of_its_accept_queue() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4) as server:
        port = server.getsockname()[1]
        bench, other = AgentBench(service_port=port), AgentBench()
        with socket.create_connection(server.getsockname()):
            assert load_told(bench) == 25
            assert load_told(other) is None
        before = len(os.listdir("/proc/self/fd"))
        bench.service.stopService()
        assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_file_overrides_the_queue(tmp_path: Path) -> None:
    file = tmp_path / "load"
    file.write_text("64\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        bench = AgentBench(service_port=server.getsockname()[1], load_file=str(file))
        assert load_told(bench) == 64
        bench.service.stopService()


def test_a_command_overrides_the_queue_and_runs_from_start_to_stop() -> None:
    bench = AgentBench(load_command="echo 64", start=False)
    bench.service.stopService()
    bench = AgentBench(load_command="echo 64")
    deadline = time.monotonic() + 5
    while load_told(bench) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        run(bench.reactor, 0.05)
    assert load_told(bench) == 64
    bench.service.stopService()
    run(bench.reactor, 1)
    assert bench.reactor.getDelayedCalls() == []


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="figures are kept open where they are files")


@LINUX
@pytest.mark.parametrize("scope", ["host", "auto"])
def test_an_agent_keeps_its_hosts_figures_open_until_it_stops(scope: str) -> None:
    before = open_figures()
    service = AgentService(Reactor(), AgentConfig(proxies=(MONITOR,), scope=scope))
    service.privilegedStartService()
    service.startService()
    assert len(open_figures()) > len(before)
    service.stopService()
    assert open_figures() == before


@LINUX
def test_the_scope_is_that_of_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Scope] = []

    def figures(scope: Scope) -> PsutilFigures:
        asked.append(scope)
        return PsutilFigures()

    monkeypatch.setattr("rproxy.tap.agent.figures", figures)
    AgentService(Reactor(), AgentConfig(proxies=(MONITOR,), scope="cgroup"))
    assert asked == [Scope.CGROUP]


def open_figures() -> list[str]:
    """The files of /proc that this process has open, but for those of processes."""
    links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if is_open(name)]
    return sorted(link for link in links if link in ("/proc/stat", "/proc/meminfo") or link.endswith("/net/snmp"))


def is_open(name: str) -> bool:
    """Not so of the descriptor that lists them."""
    return os.path.islink(f"/proc/self/fd/{name}")


def sent(bench: AgentBench) -> list[str]:
    """The kinds of the PDUs since it was asked last."""
    return [type(pdu).__name__ for pdu, _ in bench.reactor.datagrams[0].take()]


def waiting_agent() -> tuple[AgentBench, list[object]]:
    """One that is stopped while its proxy has a session."""
    bench = AgentBench(drain_wait_s=30.0)
    bench.service.agent.datagramReceived(encode(ProbeRequest(0, 1, 1)), MONITOR)
    bench.reactor.datagrams[0].take()
    run(bench.reactor, 0.5)
    return bench, ended(bench.service.stopService())


def test_an_agent_that_waits_for_sessions_answers_probes_and_unregisters_when_they_have_ended() -> None:
    bench, stopped = waiting_agent()
    for number, sessions in enumerate([1, 1, 0], 1):
        run(bench.reactor, 0.5)
        assert not stopped
        bench.service.agent.datagramReceived(encode(ProbeRequest(number, 1, sessions)), MONITOR)
    assert sent(bench) == ["Register", "ProbeResponse", "ProbeResponse", "Register", "ProbeResponse"]
    run(bench.reactor, 0.2)
    assert (sent(bench), len(stopped), bench.reactor.open_ports) == (["Unregister"], 1, [])
    assert bench.reactor.getDelayedCalls() == []


def test_an_agent_that_waits_for_sessions_ends_at_once_if_it_is_told_to() -> None:
    bench, stopped = waiting_agent()
    sent(bench)
    bench.service.stop_at_once()
    assert (sent(bench), len(stopped)) == (["Unregister"], 1)
    assert bench.reactor.getDelayedCalls() == []


def test_by_default_an_agent_waits_for_no_sessions() -> None:
    bench = AgentBench()
    bench.service.agent.datagramReceived(encode(ProbeRequest(0, 1, 1)), MONITOR)
    sent(bench)
    stopped = ended(bench.service.stopService())
    assert (sent(bench), len(stopped)) == (["Unregister"], 1)
