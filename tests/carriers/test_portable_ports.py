"""Twisted's listening ports while there is no capacity, on real sockets."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest

from rproxy.carriers.portable.carrier import PortableCarrier
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.timing.wheel import Wheel
from tests.carriers.splicing import LoopbackEndpoint
from tests.fakes import Reactor, logged, pool_with, run


class Bench:
    """A carrier with a port for each of two services."""

    def __init__(self, stack: ExitStack, sessions_max: int = 100) -> None:
        self._stack = stack
        self.reactor: Any = Reactor()
        self.capacity = Capacity(sessions_max, self.reactor.seconds)
        self.carrier = PortableCarrier(self.reactor, Wheel(self.reactor), self.capacity)
        self.endpoint = LoopbackEndpoint(self.reactor)
        self.one, self.two = (self.serve(name) for name in ("one", "two"))
        stack.callback(self.close)

    def serve(self, name: str) -> Service:
        service = Service(pool_with(1), self.reactor, name=name)
        self.carrier.serve(self.endpoint, service, name)  # type: ignore[arg-type]
        return service

    def close(self) -> None:
        self.carrier.abort()
        for port in self.endpoint.ports:
            port.stopListening()
        run(self.reactor, 1)

    def clients(self, number: int) -> None:
        for port in self.endpoint.ports:
            for _ in range(number):
                self._stack.enter_context(socket.create_connection(port.socket.getsockname()))

    def accept(self, turns: int = 3) -> None:
        """Let the reactor read the ports, as long as they are to be read."""
        for _ in range(turns):
            for port in self.endpoint.ports:
                if port in self.reactor.getReaders():
                    port.doRead()

    @property
    def reading(self) -> list[bool]:
        return [port in self.reactor.getReaders() for port in self.endpoint.ports]

    @property
    def sessions(self) -> tuple[int, int]:
        return self.one.capacity.sessions, self.two.capacity.sessions

    def end_one(self, service: Service) -> None:
        """End a session of the service."""
        client = next(each for each in self.carrier.clients if each.session.service is service)
        client.cut(Ending.STOPPED)
        run(self.reactor, 0.5)


@pytest.fixture
def bench(stack: ExitStack) -> Bench:
    return Bench(stack)


def test_a_service_that_is_full_pauses_its_own_ports_alone(bench: Bench) -> None:
    bench.one.capacity.resize(2)
    bench.clients(4)
    with logged():
        bench.accept()
    assert (bench.sessions, bench.reading) == ((2, 4), [False, True])
    bench.end_one(bench.two)
    assert bench.reading == [False, True]
    bench.end_one(bench.one)
    assert bench.reading == [True, True]
    with logged():
        bench.accept()
    assert (bench.sessions, bench.reading) == ((2, 3), [False, True])


def test_a_full_process_pauses_all_and_a_full_service_stays_paused(stack: ExitStack) -> None:
    bench = Bench(stack, sessions_max=4)
    bench.one.capacity.resize(1)
    bench.clients(4)
    with logged():
        bench.accept()
    assert (bench.sessions, bench.reading) == ((1, 3), [False, False])
    bench.end_one(bench.two)
    assert bench.reading == [False, True]
    with logged():
        bench.accept()
    assert (bench.sessions, bench.reading) == ((1, 3), [False, False])
    bench.end_one(bench.one)
    assert bench.reading == [True, True]


def test_a_changed_limit_counts_at_once(bench: Bench) -> None:
    bench.clients(4)
    bench.accept()
    with logged():
        bench.one.capacity.resize(2)
        assert bench.reading == [False, True]
        bench.end_one(bench.one)
        bench.end_one(bench.one)
        bench.end_one(bench.one)
        assert bench.reading == [True, True]
        bench.one.capacity.resize(1)
        assert bench.reading == [False, True]
        bench.one.capacity.resize(2)
        assert bench.reading == [True, True]


def test_a_port_that_is_opened_while_there_is_no_capacity_is_not_read(stack: ExitStack) -> None:
    bench = Bench(stack, sessions_max=2)
    bench.clients(1)
    with logged():
        bench.accept()
        bench.serve("three")
    assert bench.reading == [False] * 3
    bench.end_one(bench.two)
    assert bench.reading == [True] * 3


def test_waiting_again_and_again_leaves_nothing_behind(bench: Bench) -> None:
    """Service one stays full while service two becomes full and has capacity again."""
    for service in (bench.one, bench.two):
        service.capacity.resize(1)
    bench.clients(20)
    with logged():
        for _ in range(10):
            bench.accept()
            bench.end_one(bench.two)
    assert len(bench.one.capacity.waiting) <= 1
    assert bench.sessions == (1, 0)
