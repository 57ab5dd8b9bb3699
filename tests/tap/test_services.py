"""What the two commands start, on a reactor in memory: which ports are opened and closed, and when."""

from __future__ import annotations

import errno
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionAborted
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import LogLevel

from rproxy.config.keyfile import Keyring
from rproxy.config.model import ServiceConfig
from rproxy.tap import listeners
from rproxy.tap.process import Process
from rproxy.tap.proxy import ProxyService
from rproxy.tap.startup import StartupError, operators_max
from rproxy.wire.pdu import SIZE, Register, Unregister
from rproxy.wire.seal import Key
from tests.fakes import Port, Reactor, logged, run, texts
from tests.tap.services import DRAIN_S, MONITOR, AgentBench, ProxyBench, config, ended

KEYED_SIZE = 44


def test_a_proxy_opens_its_ports_before_it_sheds_its_privileges_and_once() -> None:
    bench = ProxyBench(listen=("8080", "[::1]:8081"), admin=("127.0.0.1", 8082))
    bench.service.privilegedStartService()
    opened = [
        ("UDP", *MONITOR),
        ("TCP", "::", 8080),
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


class NotedProcess(Process):
    """Only notes what is done with it, and whether ports were open then."""

    observer = None

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self.done: list[tuple[str, bool]] = []
        self.files: list[tuple[str, int]] = []
        self.gives: list[Callable[[int, int], None]] = []

    def hold_pid_file(self) -> None:
        self.done.append(("hold", bool(self._reactor.open_ports)))

    def take_over_pid_file(self) -> None:
        self.done.append(("take over", bool(self._reactor.open_ports)))

    def reload_report(self) -> None:
        """None is made."""

    def shed_privileges(self) -> None:
        self.done.append(("shed", bool(self._reactor.open_ports)))


@pytest.mark.parametrize(
    "make",
    [lambda reactor: ProxyBench(reactor), lambda reactor: AgentBench(reactor, start=False)],
    ids=["proxy", "agent"],
)
def test_the_pid_file_is_held_before_the_ports_open_and_privileges_go_after(
    make: Callable[[Reactor], ProxyBench | AgentBench],
) -> None:
    reactor = Reactor()
    service = make(reactor).service
    service.process = process = NotedProcess(reactor)
    service.privilegedStartService()
    assert process.done == [("hold", False), ("take over", True), ("shed", True)]


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
        "listening for clients on [::]:8080",
        "status at http://127.0.0.1:8082/",
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
    assert (shown["state"], shown["connections"], shown["report_score"]) == ("up", 1, pytest.approx(0.18))
    (row,) = bench.service.service.pool
    explained = bench.service.service.pool.explain(row, bench.reactor.seconds())
    assert (shown["score"], set(shown["terms"])) == (pytest.approx(explained.value, rel=1e-5), set(explained.terms))
    assert bench.service.status()["counters"]["accepted"] == {"register": 1, "probe-response": 1}


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"monitors": (("", 5555),)}, True),
        ({"monitors": (("0.0.0.0", 5555),)}, True),
        ({"monitors": (("10.1.1.10", 5555),)}, True),
        ({"monitors": (("::", 5555),)}, True),
        ({"monitors": (("127.0.0.1", 5555),)}, False),
        ({"monitors": (("::1", 5555),)}, False),
        ({"monitors": (("", 5555),), "allow": (ip_network("10.0.0.0/8"),)}, False),
        ({"monitors": (("", 5555),), "allow": (ip_network("10.0.0.0/8"), ip_network("::/0"))}, True),
        ({"services": (ServiceConfig(allow=(ip_network("10.0.0.0/8"),)),)}, False),
        ({"services": (ServiceConfig(allow=(ip_network("0.0.0.0/0"),)),)}, True),
        ({"services": (ServiceConfig(takes_agents=False),)}, False),
        ({"monitors": (("", 5555),), "keyring": Keyring("", (Key(1, bytes(32)),), derived=False)}, False),
    ],
)
def test_a_proxy_open_to_any_host_warns_once(settings: dict[str, Any], warned: bool) -> None:
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


def test_a_stop_accepts_no_more_clients_and_gives_sessions_time_to_end() -> None:
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
    assert bench.service.capacity.sessions == 0
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
    monkeypatch.setattr(listeners, "listen_endpoints", lambda reactor, texts, **options: [(texts[0], endpoint)])
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


@pytest.mark.parametrize(
    ("settings", "half_closed", "lasts_s"),
    [
        ({"idle_timeout_s": 16.0}, False, 16),
        ({"half_close_timeout_s": 16.0}, True, 16),
        ({"idle_timeout_s": 16.0, "half_close_timeout_s": 0.0}, True, None),
        ({"idle_timeout_s": 0.0, "half_close_timeout_s": 16.0}, False, None),
        ({"idle_timeout_s": 16.0, "half_close_timeout_s": 64.0}, True, 64),
    ],
)
def test_each_timeout_ends_the_silent_sessions_of_its_kind(
    settings: dict[str, Any], half_closed: bool, lasts_s: float | None
) -> None:
    bench = ProxyBench(listen=("8080",), end_on_down=False, **settings)
    bench.start()
    bench.backend_up()
    client, backend = bench.session()
    if half_closed:
        client.receive_end()
    with logged():
        run(bench.reactor, (lasts_s or 200) - 0.5)
        assert client.connected
        run(bench.reactor, 0.5 + (lasts_s or 200) / 8)
    assert (client.ended, backend.ended) == ((ConnectionAborted,) * 2 if lasts_s else (None, None))


@pytest.mark.parametrize("end", [True, False])
def test_sessions_of_a_back_end_that_falls_silent_end_if_they_are_to(end: bool) -> None:
    bench = ProxyBench(listen=("8080",), end_on_down=end)
    bench.start()
    bench.backend_up()
    client, backend = bench.session()
    with logged() as events:
        run(bench.reactor, 16)
        assert client.connected
        run(bench.reactor, 30)
    assert (client.ended, backend.ended) == ((ConnectionAborted,) * 2 if end else (None, None))
    assert bench.service.status()["counters"]["sessions"] == ({"backend-down": 1} if end else {})
    assert ("1 session(s) closed: their back-end is down, and nothing moved for 25 s" in texts(events)) is end


def test_without_timeouts_there_is_no_timer_for_them() -> None:
    bench = ProxyBench(listen=("8080",), idle_timeout_s=0.0, half_close_timeout_s=0.0)
    bench.start()
    with_timeouts = ProxyBench(listen=("8080",))
    with_timeouts.start()
    assert len(with_timeouts.reactor.getDelayedCalls()) - len(bench.reactor.getDelayedCalls()) == 2


def test_the_carrier_watches_the_socket_for_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Port, "fileno", lambda port: 77, raising=False)
    bench = ProxyBench(listen=("8080",))
    calls: list[tuple[str, int]] = []
    for name in ("watch", "unwatch"):
        monkeypatch.setattr(bench.service.carrier, name, lambda descriptor, name=name: calls.append((name, descriptor)))
    bench.start()
    port: Any = bench.reactor.open_ports[0]
    port.watch(False)
    port.watch(True)
    assert calls == [("watch", 77), ("unwatch", 77), ("watch", 77)]


@pytest.mark.parametrize("carrier", ["portable", "auto"])
def test_sessions_are_limited_together_whatever_carries_them(carrier: str) -> None:
    bench = ProxyBench(listen=("8080",), carrier=carrier, max_connections=1)
    bench.start()
    bench.backend_up()
    with logged() as events:
        bench.session()
    assert (bench.service.capacity.sessions, bench.service.capacity.full) == (1, True)
    assert texts(events)[-1].startswith("1 sessions, as many as fit")


def test_a_listener_that_the_splice_carrier_cannot_take_is_one_line_and_every_port_is_closed_again() -> None:
    """A port in memory has no socket."""
    bench = ProxyBench(listen=("8080",), carrier="splice")
    with pytest.raises(StartupError) as raised:
        bench.start()
    reason = "the splice carrier takes plain sockets only; --carrier auto takes this one, too"
    assert str(raised.value) == f"cannot listen on --listen 8080: {reason}"
    assert bench.opened() == []


def test_a_listener_that_opens_only_after_the_stop_is_closed_and_stops_nothing(late: LateEndpoint) -> None:
    bench = ProxyBench(listen=("tor:80",))
    bench.start()
    assert len(ended(bench.service.stopService())) == 1
    port = Port("TCP", 80, "")
    with logged() as events:
        late.listening.callback(port)
    assert not port.open
    assert not bench.reactor.hasStopped
    assert [event for event in events if event["log_level"] is LogLevel.critical] == []


def test_a_demos_backends_register_once_the_reactor_runs() -> None:
    bench = ProxyBench(listen=("8080",), monitors=(("127.0.0.1", 5555),), demo=3)
    bench.start()
    assert [(kind, host) for kind, host, _ in bench.opened()] == [
        ("UDP", "127.0.0.1"),
        ("TCP", "::"),
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
    bench = ProxyBench(listen=("8080",), monitors=(("0.0.0.0", 5555),), demo=1)
    bench.start()
    bench.reactor.run()
    assert bench.reactor.datagrams[1].sent[0][1] == ("127.0.0.1", 5555)


def test_a_stop_closes_the_demo_too_and_its_agents_unregister() -> None:
    bench = ProxyBench(listen=("8080",), monitors=(("127.0.0.1", 5555),), demo=2)
    bench.start()
    bench.reactor.run()
    assert len(ended(bench.service.stopService())) == 1
    assert bench.opened() == []
    assert bench.reactor.getDelayedCalls() == []
    assert [type(transport.sent[-1][0]) for transport in bench.reactor.datagrams[1:]] == [Unregister] * 2


@pytest.mark.parametrize(
    ("descriptors", "connections", "sessions_less"),
    [(80, 4, 0), (512, 16, 0), (1024, 32, 8), (2048, 64, 24), (20_000, 64, 24)],
)
def test_operators_have_a_share_of_the_descriptors(descriptors: int, connections: int, sessions_less: int) -> None:
    def capacity(**more: Any) -> int:
        return ProxyService(Reactor(), config(**more), descriptors=descriptors).capacity.sessions_max

    assert operators_max(descriptors) == connections
    assert abs(capacity() - capacity(admin=("127.0.0.1", 8082)) - sessions_less) <= 4  # pipes take a share of the rest


def test_a_demos_port_for_operators_that_is_taken_is_no_error() -> None:
    taken: dict[str, Any] = {
        "listen": ("8080",),
        "monitors": (("127.0.0.1", 5555),),
        "demo": 1,
        "admin": ("127.0.0.1", 8404),
    }
    bench = ProxyBench(admin_is_default=True, **taken)
    bench.reactor.taken.add(8404)
    with logged() as events:
        bench.start()
    assert "no status: cannot listen on --admin 127.0.0.1:8404: Address already in use; --admin HOST:PORT names " in (
        "".join(texts(events))
    )
    bench = ProxyBench(**taken)
    bench.reactor.taken.add(8404)
    with pytest.raises(StartupError):
        bench.start()
