"""Accepting from real listening sockets."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from rproxy.carriers.splice.accept import ACCEPTS_MAX, Listeners, plain_socket
from rproxy.carriers.splice.endings import LegTable
from rproxy.carriers.splice.leg import Leg, Listener
from rproxy.carriers.splice.pipes import Pipes
from rproxy.pool.backend import Backend
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.service import Service
from tests.carriers.loopback import listening
from tests.fakes import logged, pool_with


class Bench:
    """Listeners whose clients get a session and are closed."""

    def __init__(self, stack: ExitStack, sessions_max: int = 1000) -> None:
        self._stack = stack
        self.epoll = stack.enter_context(select.epoll())
        self.capacity = Capacity(sessions_max, Clock().seconds)
        self.service = Service(pool_with(1), Clock())
        self.pool = LegTable(self.capacity, Pipes(0), Clock().seconds, self._wake)
        self.listeners = Listeners(self.epoll, self.capacity, self.pool, self._connect)
        self.opened: list[Leg] = []
        self.woken = 0

    def _connect(self, client: Leg, backend: Backend | None) -> None:
        assert backend is not None
        assert client.session.backend is backend
        self.opened.append(client)
        client.sock.close()

    def _wake(self) -> None:
        self.woken += 1

    def listener(self, sock: socket.socket | None = None, service: Service | None = None) -> Listener:
        sock = self._stack.enter_context(listening(backlog=256) if sock is None else sock)
        listener = self.listeners.add(sock, service or self.service, "a listener")
        self.epoll.register(sock.fileno(), listener.events)
        return listener

    def clients(self, listener: Listener, number: int) -> None:
        for _ in range(number):
            client = self._stack.enter_context(socket.socket(listener.sock.family))
            client.connect(listener.sock.getsockname())

    def accept(self, listener: Listener) -> None:
        """Accept while the listener has events."""
        while listener.sock.fileno() in self.ready():
            self.listeners.accept(listener)

    def ready(self) -> list[int]:
        return [descriptor for descriptor, _ in self.epoll.poll(0)]


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    with logged():
        yield


@pytest.fixture
def bench(stack: ExitStack) -> Bench:
    return Bench(stack)


def test_clients_are_accepted_in_growing_batches_and_singly_again_when_none_queue(bench: Bench) -> None:
    listener = bench.listener()
    bench.clients(listener, 200)
    accepted = []
    while bench.ready():
        before = len(bench.opened)
        bench.listeners.accept(listener)
        accepted.append(len(bench.opened) - before)
    assert accepted == [1, 2, 4, 8, 16, 32, ACCEPTS_MAX, ACCEPTS_MAX, 200 - 63 - 2 * ACCEPTS_MAX]
    assert (ACCEPTS_MAX, listener.batch) == (64, 1)


def test_an_accepted_client_has_its_listeners_family_and_service(bench: Bench, tmp_path: Path) -> None:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "socket"))
    unix.listen()
    unix.setblocking(False)
    for sock in (None, unix):
        listener = bench.listener(sock)
        bench.clients(listener, 1)
        bench.listeners.accept(listener)
    assert [client.sock.family for client in bench.opened] == [socket.AF_INET, socket.AF_UNIX]
    assert {(client.session.service, client.session.listener) for client in bench.opened} == {
        (bench.service, "a listener")
    }


def test_clients_inherit_what_every_connection_needs(stack: ExitStack) -> None:
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.SOL_SOCKET, socket.SO_OOBINLINE),
    ]
    bench = Bench(stack)
    listener = bench.listener()
    bench.clients(listener, 1)
    with listener.sock.accept()[0] as client:
        assert all(client.getsockopt(*option) for option in options)


def test_full_capacity_pauses_a_listener_until_a_session_ends(stack: ExitStack) -> None:
    bench = Bench(stack, sessions_max=2)
    listener = bench.listener()
    bench.clients(listener, 4)
    bench.accept(listener)
    assert (len(bench.opened), bench.listeners.paused, bench.ready()) == (2, [listener], [])
    bench.listeners.resume_if_possible()
    assert bench.ready() == []
    bench.capacity.leave()
    assert (bench.listeners.paused, bench.ready()) == ([], [listener.sock.fileno()])
    bench.accept(listener)
    assert (len(bench.opened), bench.listeners.paused) == (3, [listener])
    assert bench.woken == 0


def test_listeners_share_the_capacity(stack: ExitStack) -> None:
    bench = Bench(stack, sessions_max=1)
    one, two = bench.listener(), bench.listener()
    for listener in (one, two):
        bench.clients(listener, 2)
        bench.accept(listener)
    assert (len(bench.opened), bench.listeners.paused) == (1, [one, two])
    bench.capacity.leave()
    assert bench.listeners.paused == []
    assert set(bench.ready()) == {one.sock.fileno(), two.sock.fileno()}


def test_a_service_that_is_full_pauses_its_own_listeners_alone(bench: Bench) -> None:
    bench.service.capacity.resize(2)
    full = bench.listener()
    other = bench.listener(service=Service(pool_with(1), Clock(), name="other"))
    for listener in (full, other):
        bench.clients(listener, 4)
        bench.accept(listener)
    assert (len(bench.opened), bench.listeners.paused) == (2 + 4, [full])
    bench.capacity.leave()
    bench.listeners.resume_if_possible()
    assert (bench.listeners.paused, bench.ready()) == ([full], [])
    bench.service.capacity.leave()
    assert (bench.listeners.paused, bench.ready()) == ([], [full.sock.fileno()])
    bench.accept(full)
    assert (len(bench.opened), bench.listeners.paused) == (7, [full])
    assert bench.service.capacity.sessions == 2


def test_a_higher_limit_resumes_the_listeners_at_once(bench: Bench) -> None:
    bench.service.capacity.resize(1)
    listener = bench.listener()
    bench.clients(listener, 3)
    bench.accept(listener)
    bench.service.capacity.resize(2)
    assert (bench.listeners.paused, bench.ready()) == ([], [listener.sock.fileno()])
    bench.accept(listener)
    assert (len(bench.opened), bench.listeners.paused) == (2, [listener])


class FailingAccept:
    """A listening socket's accept, which raises `errors` first."""

    def __init__(self, listener: Listener, *errors: int) -> None:
        self._accept = listener.accept
        self._errors = list(errors)

    def __call__(self) -> tuple[int, object]:
        if self._errors:
            error = self._errors.pop(0)
            raise OSError(error, os.strerror(error))
        accepted: tuple[int, object] = self._accept()
        return accepted


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_or_memory_accepting_pauses_until_the_next_tick(bench: Bench, error: int) -> None:
    listener = bench.listener()
    bench.clients(listener, 1)
    listener.accept = FailingAccept(listener, error)
    bench.listeners.accept(listener)
    assert (bench.opened, bench.listeners.paused, bench.ready(), bench.woken) == ([], [listener], [], 1)
    bench.listeners.resume_if_possible()
    assert (bench.listeners.paused, bench.ready()) == ([], [listener.sock.fileno()])
    bench.listeners.accept(listener)
    assert len(bench.opened) == 1


@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
def test_an_error_of_one_client_costs_no_other_its_turn(bench: Bench, error: int) -> None:
    listener = bench.listener()
    bench.clients(listener, 1)
    listener.accept = FailingAccept(listener, error)
    bench.listeners.accept(listener)
    assert (bench.opened, bench.listeners.paused, bench.woken) == ([], [], 0)
    assert bench.ready() == [listener.sock.fileno()]
    bench.listeners.accept(listener)
    assert len(bench.opened) == 1


def test_a_listener_that_is_closed_while_paused_is_not_resumed(stack: ExitStack) -> None:
    bench = Bench(stack, sessions_max=0)
    listener = bench.listener()
    bench.clients(listener, 1)
    bench.listeners.accept(listener)
    listener.sock.close()
    bench.capacity.enter()
    bench.capacity.leave()
    assert bench.listeners.paused == []


class FakePort:
    """What `plain_socket` looks at."""

    def __init__(self, sock: object, factory: object) -> None:
        self.socket = sock
        self.factory = factory


FACTORY = object()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX], ids=str)
def test_a_plain_stream_socket_can_be_taken(stack: ExitStack, family: socket.AddressFamily) -> None:
    sock = stack.enter_context(socket.socket(family))
    assert plain_socket(FakePort(sock, FACTORY), FACTORY) is sock


def test_other_ports_cannot_be_taken(stack: ExitStack) -> None:
    stream, datagrams = stack.enter_context(socket.socket()), stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    for port in (FakePort(stream, object()), FakePort(datagrams, FACTORY), FakePort(None, FACTORY), object()):
        assert plain_socket(port, FACTORY) is None
