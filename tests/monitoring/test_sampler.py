"""Where an agent's figures come from."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from twisted.internet.task import Clock

from rproxy.monitoring import sampler
from rproxy.monitoring.sampler import FRESH_S, FixedSampler, HostSampler, Load, established
from tests.fakes import StubSampler

CONNECTIONS = 20
ESTABLISHED, CLOSE_WAIT = "01", "08"


@pytest.fixture
def connections() -> Iterator[list[socket.socket]]:
    """Loopback connections, both ends of each."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS))
        ends = []
        for _ in range(CONNECTIONS):
            ends.append(opened.enter_context(socket.create_connection(listener.getsockname())))
            ends.append(opened.enter_context(listener.accept()[0]))
        yield ends


def rows() -> int:
    """Connections that the kernel lists as established, or as closed by the peer only."""
    listed = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    return sum(fields[3] in (ESTABLISHED, CLOSE_WAIT) for fields in listed)


def rows_and_count() -> tuple[int, int]:
    """Both, taken while others on this host opened and closed nothing."""
    for _ in range(200):
        before = rows()
        counted = established()
        if rows() == before:
            return before, counted
    raise AssertionError("connections on this host never hold still")


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_established_counts_what_the_kernel_lists(connections: list[socket.socket]) -> None:
    listed, counted = rows_and_count()
    assert counted == listed >= len(connections)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_a_connection_that_only_the_peer_has_closed_still_counts(connections: list[socket.socket]) -> None:
    for client in connections[::2]:
        client.shutdown(socket.SHUT_WR)
    listed, counted = rows_and_count()
    assert counted == listed >= len(connections) / 2


def test_without_the_kernels_counter_psutils_list_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = [psutil.CONN_ESTABLISHED, psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED, psutil.CONN_TIME_WAIT]
    listed = [SimpleNamespace(status=status) for status in statuses]
    monkeypatch.setattr(sampler, "_SNMP", "/nonexistent")
    monkeypatch.setattr(psutil, "net_connections", lambda kind: listed if kind == "tcp" else [])
    assert established() == 2


def test_a_host_has_percentages_and_a_count() -> None:
    load = HostSampler(Clock().seconds).sample()
    assert load.cpu is not None
    assert 0 <= load.cpu <= 100
    assert load.memory is not None
    assert 0 < load.memory <= 100
    assert load.tcp is not None
    assert load.tcp >= 0
    assert load.application is None


def test_a_fresh_sample_is_given_out_again_and_an_old_one_taken_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 4, 5])
    monkeypatch.setattr(sampler, "established", lambda: next(counts))
    clock = Clock()
    host = HostSampler(clock.seconds)
    taken = []
    for wait_s in (0, FRESH_S / 2, FRESH_S / 4, FRESH_S / 4, 10):
        clock.advance(wait_s)
        taken.append(host.sample().tcp)
    assert taken == [3, 3, 3, 4, 5]


def test_figures_beyond_what_a_pdu_can_say_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 100.6)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(percent=104.2))
    monkeypatch.setattr(sampler, "established", lambda: 2**40)
    assert HostSampler(Clock().seconds).sample() == Load(cpu=100, memory=100, tcp=2**32 - 2)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({}, Load(17, 89, 5, 7)),
        ({"cpu": 100, "memory": 100, "tcp": 100}, Load(100, 100, 100, 7)),
        ({"cpu": 0}, Load(0, 89, 5, 7)),
        ({"memory": 1}, Load(17, 1, 5, 7)),
        ({"tcp": 0}, Load(17, 89, 0, 7)),
        ({"cpu": 1, "tcp": 2}, Load(1, 89, 2, 7)),
    ],
)
def test_a_fixed_report_replaces_any_of_the_figures(report: dict[str, int], expected: Load) -> None:
    assert FixedSampler(StubSampler(Load(17, 89, 5, 7)), **report).sample() == expected


def test_a_fixed_report_replaces_what_is_unknown() -> None:
    assert FixedSampler(StubSampler(Load()), cpu=100).sample() == Load(cpu=100)
