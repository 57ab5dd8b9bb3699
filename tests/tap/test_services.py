"""What the two commands start, on a reactor in memory: which ports are opened and closed, and when."""

from __future__ import annotations

import errno
import io
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionAborted
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import LogLevel

from rproxy.monitoring.sampler import Load
from rproxy.tap import agent, proxy
from rproxy.tap.options import (
    StartupError,
    cannot_listen,
    report_startup_errors_in_one_line,
    use_monotonic_time,
)
from rproxy.tap.proxy import DRAIN_S, ProxyService
from rproxy.tap.settings import Settings
from rproxy.wire.pdu import SIZE, ProbeRequest, ProbeResponse, Register, Unregister, encode
from tests.fakes import Port, Reactor, Stream, StubSampler, logged, run, texts

AGENT = ("10.0.0.1", 5555)
MONITOR = ("10.1.1.10", 5555)
KEYED_SIZE = 44


class ProxyBench:
    def __init__(self, reactor: Reactor | None = None, **settings: Any) -> None:
        self.reactor = reactor or Reactor()
        self.service = ProxyService(self.reactor, Settings(**{"monitor": MONITOR, **settings}))

    def start(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()

    def receive(self, pdu: Register | ProbeResponse) -> None:
        self.service.monitor.datagramReceived(encode(pdu), AGENT)

    def backend_up(self) -> None:
        """A back-end that registers for the default port, and answers its probe."""
        self.receive(Register(0, 20_000, instance=1))
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
        told = agent.Settings(**{"proxies": (MONITOR,), **settings})
        self.service = agent.AgentService(self.reactor, told, sampler=self.sampler)
        if start:
            self.service.privilegedStartService()
            self.service.startService()


def ended(deferred: Deferred[Any]) -> list[object]:
    """What the Deferred came to, once it has."""
    results: list[object] = []
    deferred.addBoth(results.append)
    return results


def test_a_proxy_opens_its_ports_before_it_sheds_its_privileges_and_once() -> None:
    bench = ProxyBench(listen=("8080", "[::1]:8081"), admin=("127.0.0.1", 8082))
    bench.service.privilegedStartService()
    opened = [
        ("UDP", *MONITOR),
        ("TCP", "0.0.0.0", 8080),
        ("TCP", "::1", 8081),
        ("TCP", "127.0.0.1", 8082),
    ]
    assert bench.opened() == opened
    bench.service.startService()
    assert bench.opened() == opened


def test_a_proxy_that_is_started_without_privileges_opens_its_ports_too() -> None:
    bench = ProxyBench(listen=("8080",))
    bench.service.startService()
    assert [port for _, _, port in bench.opened()] == [5555, 8080]


@pytest.mark.parametrize("start", [lambda reactor: ProxyBench(reactor).start(), lambda reactor: AgentBench(reactor)])
def test_datagrams_are_read_a_little_beyond_the_longest_pdu_and_no_more(
    start: Callable[[Reactor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    reactor = Reactor()
    listen = reactor.listenUDP

    def noted(port: int, protocol: Any, interface: str, maxPacketSize: int) -> Port:  # noqa: N803
        sizes.append(maxPacketSize)
        return listen(port, protocol, interface, maxPacketSize)

    monkeypatch.setattr(reactor, "listenUDP", noted)
    start(reactor)
    (size,) = sizes
    assert max(SIZE, KEYED_SIZE) < size <= 1500


def test_where_a_proxy_listens_is_logged() -> None:
    bench = ProxyBench(listen=("8080",), admin=("127.0.0.1", 8082))
    with logged() as events:
        bench.start()
    assert texts(events)[:3] == [
        "listening for agents on UDP 10.1.1.10:5555",
        "listening for clients on 0.0.0.0:8080",
        "status at http://127.0.0.1:8082/status.json",
    ]


TAKEN: list[Any] = [
    pytest.param(5555, "--monitor 10.1.1.10:5555 (UDP)", id="for agents"),
    pytest.param(8080, "--listen 8080", id="for clients"),
    pytest.param(8081, "--listen 8081", id="for more clients"),
    pytest.param(8082, "--admin 127.0.0.1:8082", id="for operators"),
    pytest.param(0, "a port for demo back-end 1", id="for the demo"),
]


@pytest.mark.parametrize(("port", "named"), TAKEN)
def test_a_taken_port_is_one_line_that_names_it_and_every_port_is_closed_again(port: int, named: str) -> None:
    bench = ProxyBench(listen=("8080", "8081"), admin=("127.0.0.1", 8082), demo=2)
    bench.reactor.taken.add(port)
    with pytest.raises(StartupError) as raised:
        bench.start()
    assert str(raised.value) == f"cannot listen on {named}: Address already in use"
    assert bench.opened() == []
    assert bench.reactor.getDelayedCalls() == []


def test_a_client_is_taken_to_a_backend_that_registered_and_answered() -> None:
    bench = ProxyBench(listen=("8080",), backend_port=8000)
    bench.start()
    bench.backend_up()
    client, backend = bench.session()
    assert bench.reactor.connects[0].address == ("10.0.0.1", 8000)
    client.receive(b"request")
    run(bench.reactor, 0)
    assert backend.value() == b"request"
    (shown,) = bench.service.status()["backends"]
    assert (shown["state"], shown["connections"], shown["score"]) == ("up", 1, pytest.approx(0.18))
    assert bench.service.status()["counters"]["accepted"] == {"register": 1, "probe-response": 1}


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"monitor": ("", 5555)}, True),
        ({"monitor": ("0.0.0.0", 5555)}, True),
        ({"monitor": ("10.1.1.10", 5555)}, True),
        ({"monitor": ("::", 5555)}, True),
        ({"monitor": ("127.0.0.1", 5555)}, False),
        ({"monitor": ("::1", 5555)}, False),
        ({"monitor": ("", 5555), "allow": ("any network",)}, False),
    ],
)
def test_a_proxy_where_anybody_may_register_says_so_once(settings: dict[str, Any], warned: bool) -> None:
    bench = ProxyBench(**settings)
    with logged() as events:
        bench.start()
    warnings = [event for event in events if event["log_level"] is LogLevel.warn]
    assert len(warnings) == warned


def test_a_stop_without_sessions_closes_every_port_at_once_and_leaves_no_timer() -> None:
    bench = ProxyBench(listen=("8080", "8081"), admin=("127.0.0.1", 8082))
    bench.start()
    bench.backend_up()
    stopped = ended(bench.service.stopService())
    run(bench.reactor, 0)
    assert len(stopped) == 1
    assert bench.opened() == []
    assert bench.reactor.getDelayedCalls() == []
    assert not bench.service.running


def test_a_stop_accepts_nobody_any_more_and_lets_a_session_come_to_its_end() -> None:
    bench = ProxyBench(listen=("8080",))
    bench.start()
    bench.backend_up()
    client, backend = bench.session()
    stopped = ended(bench.service.stopService())
    run(bench.reactor, DRAIN_S / 2)
    assert stopped == []
    assert [kind for kind, _, _ in bench.opened()] == ["UDP"]
    client.receive_end()
    backend.receive(b"the rest")
    backend.receive_end()
    run(bench.reactor, 0.1)
    assert client.value() == b"the rest"
    assert (len(stopped), bench.opened()) == (1, [])


def test_a_stop_ends_sessions_that_do_not_end_in_time() -> None:
    bench = ProxyBench(listen=("8080",))
    bench.start()
    bench.backend_up()
    client, backend = bench.session()
    stopped = ended(bench.service.stopService())
    run(bench.reactor, DRAIN_S + 0.3)
    assert (client.ended, backend.ended) == (ConnectionAborted, ConnectionAborted)
    assert bench.service.room.sessions == 0
    assert (len(stopped), bench.opened()) == (1, [])
    assert bench.reactor.getDelayedCalls() == []
    assert bench.service.status()["counters"]["sessions"] == {"stopped": 1}


def test_a_proxy_that_never_started_can_be_stopped() -> None:
    bench = ProxyBench()
    assert len(ended(bench.service.stopService())) == 1
    assert bench.reactor.getDelayedCalls() == []


class LateEndpoint:
    """An endpoint that listens, or fails to, only when the test says."""

    def __init__(self) -> None:
        self.listening: Deferred[IListeningPort] = Deferred()

    def listen(self, factory: Factory[Any]) -> Deferred[IListeningPort]:
        return self.listening


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> LateEndpoint:
    endpoint = LateEndpoint()
    monkeypatch.setattr(proxy, "listen_endpoint", lambda reactor, text: endpoint)
    return endpoint


def test_a_listener_that_fails_after_the_start_stops_the_reactor_and_says_why(late: LateEndpoint) -> None:
    bench = ProxyBench(listen=("tor:80",))
    bench.start()
    assert not bench.reactor.hasStopped
    with logged() as events:
        late.listening.errback(CannotListenError("", 80, OSError(errno.EADDRINUSE, "Address already in use")))
    assert bench.reactor.hasStopped
    assert texts(events) == ["cannot listen on --listen tor:80: Address already in use"]
    assert events[0]["log_level"] is LogLevel.critical


def test_a_listener_that_opens_after_the_start_is_used_and_closed_with_the_others(late: LateEndpoint) -> None:
    bench = ProxyBench(listen=("tor:80",))
    bench.start()
    port = Port("TCP", 80, "")
    late.listening.callback(port)
    assert not bench.reactor.hasStopped
    ended(bench.service.stopService())
    assert not port.open


def test_a_demos_backends_register_once_the_reactor_runs() -> None:
    bench = ProxyBench(listen=("8080",), monitor=("127.0.0.1", 5555), demo=3)
    bench.start()
    assert [(kind, host) for kind, host, _ in bench.opened()] == [
        ("UDP", "127.0.0.1"),
        ("TCP", "0.0.0.0"),
        *[("TCP", "127.0.0.1")] * 3,
    ]
    bench.reactor.run()
    agents = bench.reactor.datagrams[1:]
    assert len(agents) == 3
    servers = {port for _, host, port in bench.opened()[2:5]}
    registered = [transport.sent[0] for transport in agents]
    assert {address for _, address in registered} == {("127.0.0.1", 5555)}
    assert {pdu.service_port for pdu, _ in registered if isinstance(pdu, Register)} == servers


def test_a_demos_monitor_on_every_address_is_registered_with_on_loopback() -> None:
    bench = ProxyBench(listen=("8080",), monitor=("0.0.0.0", 5555), demo=1)
    bench.start()
    bench.reactor.run()
    assert bench.reactor.datagrams[1].sent[0][1] == ("127.0.0.1", 5555)


def test_a_stop_closes_the_demo_too_and_its_agents_unregister() -> None:
    bench = ProxyBench(listen=("8080",), monitor=("127.0.0.1", 5555), demo=2)
    bench.start()
    bench.reactor.run()
    assert len(ended(bench.service.stopService())) == 1
    assert bench.opened() == []
    assert bench.reactor.getDelayedCalls() == []
    assert [type(transport.sent[-1][0]) for transport in bench.reactor.datagrams[1:]] == [Unregister] * 2


def test_an_agent_opens_its_port_before_it_sheds_its_privileges_once_and_registers() -> None:
    bench = AgentBench(start=False, port=6666, service_port=8000, weight=7, interval_s=30)
    bench.service.privilegedStartService()
    bench.service.startService()
    (port,) = bench.reactor.open_ports
    assert (port.getHost().port, port.getHost().host) == (6666, "0.0.0.0")
    ((pdu, address),) = bench.reactor.datagrams[0].sent
    assert isinstance(pdu, Register)
    assert (address, pdu.service_port, pdu.weight, pdu.interval_ms) == (MONITOR, 8000, 7, 30_000)


def test_an_agent_that_is_started_without_privileges_opens_its_port_too() -> None:
    bench = AgentBench(start=False)
    bench.service.startService()
    assert len(bench.reactor.open_ports) == 1


@pytest.mark.parametrize(
    ("proxies", "family"),
    [
        ([MONITOR], socket.AF_INET),
        ([("2001:db8::5", 5555)], socket.AF_INET6),
        ([MONITOR, ("2001:db8::5", 5555)], socket.AF_INET6),
    ],
)
def test_an_agents_socket_is_of_the_family_that_reaches_its_proxies(
    proxies: list[tuple[str, int]], family: socket.AddressFamily
) -> None:
    bench = AgentBench(proxies=tuple(proxies))
    assert bench.reactor.datagrams[0].addressFamily == family


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


def test_an_agents_stop_unregisters_and_closes_its_port_and_leaves_no_timer() -> None:
    bench = AgentBench()
    assert len(ended(bench.service.stopService())) == 1
    pdu = bench.reactor.datagrams[0].sent[-1][0]
    assert isinstance(pdu, Unregister)
    assert pdu.instance == bench.service.agent.service.instance
    assert bench.reactor.open_ports == []
    assert bench.reactor.getDelayedCalls() == []


def test_an_agent_that_never_started_or_has_stopped_can_be_stopped() -> None:
    bench = AgentBench(start=False)
    assert len(ended(bench.service.stopService())) == 1
    assert bench.reactor.datagrams == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            CannotListenError("", 80, OSError(errno.EADDRINUSE, "Address already in use")),
            "cannot listen on --listen 80: Address already in use",
        ),
        (
            CannotListenError("", 80, PermissionError(errno.EACCES, "Permission denied")),
            "cannot listen on --listen 80: Permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
        ),
        (
            CannotListenError("10.9.9.9", 80, OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")),
            "cannot listen on --listen 80: Cannot assign requested address",
        ),
        (
            CannotListenError("", 80, socket.gaierror(-2, "Name or service not known")),
            "cannot listen on --listen 80: Name or service not known",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file"), "cannot listen on --listen 80: No such file"),
        (ValueError("not like this"), "cannot listen on --listen 80: not like this"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_why_it_cannot_listen_is_one_line(error: Exception, text: str) -> None:
    assert str(cannot_listen("--listen 80", error)) == text


def test_an_error_at_the_start_shows_its_line_and_any_other_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[type[BaseException]] = []
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "excepthook", lambda kind, value, traceback: shown.append(kind))
    monkeypatch.setattr(sys, "__stderr__", terminal)
    report_startup_errors_in_one_line()
    sys.excepthook(StartupError, StartupError("cannot listen on 80"), None)
    assert (terminal.getvalue(), shown) == ("twistd: cannot listen on 80\n", [])
    sys.excepthook(ValueError, ValueError("a bug"), None)
    assert (terminal.getvalue(), shown) == ("twistd: cannot listen on 80\n", [ValueError])


def test_timers_run_on_monotonic_time() -> None:
    reactor = Reactor()
    use_monotonic_time(reactor)
    seconds: object = reactor.seconds
    assert seconds is time.monotonic
