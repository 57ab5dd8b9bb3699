"""Static back-ends as a part of a proxy on a reactor in memory."""

from __future__ import annotations

import socket
from errno import EINPROGRESS

import pytest

from rproxy.config.model import BackendConfig
from rproxy.net.outgoing import AddressSource, ClientSource
from rproxy.pool.states import State
from rproxy.sessions.outbound import Outbound, Source
from rproxy.tap.parts import Group
from rproxy.tap.static_part import StaticPart
from tests.fakes import logged, run, texts
from tests.tap.services import ProxyBench

ONE = BackendConfig(("10.0.0.1", 80), weight=50, check="none")
TWO = BackendConfig(("10.0.0.2", 80), check="none")


def part(bench: ProxyBench) -> StaticPart:
    groups = [each for each in bench.service if isinstance(each, Group)]
    (found,) = (each for group in groups for each in group if isinstance(each, StaticPart))
    return found


def test_they_are_in_the_pool_from_the_start_on() -> None:
    bench = ProxyBench(backends=(ONE, TWO))
    assert len(bench.service.service.pool) == 0
    bench.start()
    run(bench.reactor, 0.2)
    rows = [(backend.name, backend.registration.weight, backend.state) for backend in bench.service.service.pool]
    assert rows == [("10.0.0.1:80", 50, State.UP), ("10.0.0.2:80", 100, State.UP)]


def test_other_ones_are_applied_while_it_runs_and_sessions_go_on() -> None:
    bench = ProxyBench(listen=("8080",), backends=(ONE,))
    bench.start()
    run(bench.reactor, 0.2)
    client, _ = bench.session()
    part(bench).apply((TWO,))
    run(bench.reactor, 0.2)
    assert {backend.name: backend.state for backend in bench.service.service.pool} == {
        "10.0.0.1:80": State.DEPARTED,
        "10.0.0.2:80": State.UP,
    }
    assert client.ended is None
    assert bench.service.capacity.sessions == 1


@pytest.mark.parametrize(
    ("check", "connects", "agent_port"),
    [("connect", True, None), ("none", False, None), ("agent-check:9000", True, 9000)],
)
def test_how_each_is_checked(check: str, connects: bool, agent_port: int | None) -> None:
    bench = ProxyBench(backends=(BackendConfig(("db.example", 80), 7, check, 30),))
    (entry,) = part(bench)._backends._entries
    assert (entry.connects, entry.agent_port, entry.address) == (connects, agent_port, ("db.example", 80))
    assert (entry.terms.weight, entry.terms.check, entry.terms.max_connections) == (7, check, 30)


def test_one_with_a_proxy_version_of_its_own_is_connected_to_in_its_own_way() -> None:
    own = BackendConfig(("10.0.0.3", 80), check="none", send_proxy=0)
    bench = ProxyBench(backends=(ONE, own))
    service = bench.service.service
    source = AddressSource(("127.0.0.9",), lambda source, line: None)
    service.outbound = Outbound(send_proxy=2, source=source)
    bench.start()
    assert service.special == {("10.0.0.3", 80): Outbound(send_proxy=0, source=source)}
    service.outbound = Outbound(send_proxy=1)
    part(bench).apply((ONE, own))
    assert service.special == {("10.0.0.3", 80): Outbound(send_proxy=0)}
    part(bench).apply((ONE,))
    assert service.special == {}


def test_the_lines_of_a_named_service_name_it() -> None:
    own = BackendConfig(("127.0.0.1", 8080), check="none")
    bench = ProxyBench(name="web", listen=("8080",), backends=(ONE, own))
    with logged() as events:
        bench.start()
        run(bench.reactor, 0.2)
    lines = texts(events)
    assert "web: static back-end(s) added: 10.0.0.1:80, 127.0.0.1:8080" in lines
    assert "web: no back-end: 127.0.0.1:8080 leads to this proxy itself" in lines
    assert "web: back-end 10.0.0.1:80: registered -> up (it is not checked; static)" in lines


@pytest.mark.parametrize(("source", "peer"), [("127.0.0.9", "127.0.0.9"), ("client", "127.0.0.1"), (None, "127.0.0.1")])
def test_checks_come_from_where_sessions_come_from(source: str | None, peer: str) -> None:
    bench = ProxyBench(backends=(ONE,))
    lines: list[str] = []

    def report(who: str, line: str) -> None:
        lines.append(f"{who}: {line}")

    sources: dict[str, Source] = {"client": ClientSource(report), "127.0.0.9": AddressSource(("127.0.0.9",), report)}
    bench.service.service.outbound = Outbound(source=sources.get(source or ""))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sock:
        sock.settimeout(0)
        assert part(bench)._connect(sock, server.getsockname()) in (0, EINPROGRESS)
        accepted, (host, _) = server.accept()
        accepted.close()
    assert (host, lines) == (peer, [])
