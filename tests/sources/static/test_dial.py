"""Connections of checks, on real sockets: what comes of them, and that nothing stays."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from select import select
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rproxy.net.addresses import Address
from rproxy.sources.static.dial import TIMEOUT_S, Dial, Outcome
from rproxy.timing.wheel import Wheel
from rproxy.wire.agent_check import LINE_MAX
from rproxy.wire.proxy_header import LOCAL
from tests.fakes import run


class Descriptors(Clock):
    """A reactor that calls descriptors when the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def turn(self) -> None:
        """What is ready now, within a second."""
        readable, writable, _ = select(self.readers, self.writers, [], 1)
        for each in readable:
            each.doRead()
        for each in writable:
            each.doWrite()


class Bench:
    def __init__(self) -> None:
        self.reactor = Descriptors()
        self.wheel = Wheel(self.reactor)
        self.outcomes: list[Outcome] = []

    def dial(self, address: Address, **how: Any) -> Dial:
        dial = Dial(self.reactor, self.wheel, address, self.outcomes.append, **how)
        dial.start()
        return dial

    @property
    def is_clean(self) -> bool:
        return not (self.reactor.readers or self.reactor.writers or len(self.wheel))


@pytest.fixture
def bench() -> Bench:
    return Bench()


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, Address]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        yield server, server.getsockname()[:2]


def free_address() -> Address:
    with listening() as (_, address):
        return address


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connect_passes_and_is_reset(bench: Bench, host: str) -> None:
    with listening(host) as (server, address):
        bench.dial(address)
        bench.reactor.turn()
        (outcome,) = bench.outcomes
        assert (outcome.failure, outcome.answered, bench.is_clean) == ("", True, True)
        assert outcome.rtt_ms is not None
        assert 0 < outcome.rtt_ms < 100
        accepted, _ = server.accept()
        with accepted, pytest.raises(ConnectionResetError):
            accepted.recv(1)


@pytest.mark.parametrize("version", [1, 2])
def test_the_header_arrives_before_the_reset(bench: Bench, version: int) -> None:
    with listening() as (server, address):
        bench.dial(address, send_proxy=version)
        bench.reactor.turn()
        accepted, peer = server.accept()
        with accepted:
            line = f"PROXY TCP4 127.0.0.1 127.0.0.1 {peer[1]} {address[1]}\r\n".encode()
            assert accepted.recv(100) == (LOCAL if version == 2 else line)
            with pytest.raises(ConnectionResetError):
                accepted.recv(1)


def test_a_refusal_is_an_answer_and_a_failure(bench: Bench) -> None:
    bench.dial(free_address())
    while not bench.outcomes:
        bench.reactor.turn()
    assert bench.outcomes == [Outcome("Connection refused", answered=True)]
    assert bench.is_clean


@pytest.mark.parametrize("reason", [ConnectionLost, ConnectionDone])
def test_the_reactor_may_find_that_out_first(bench: Bench, reason: Callable[[], Exception]) -> None:
    """epoll's does, and does not call doWrite then."""
    dial = bench.dial(free_address())
    if not bench.outcomes:
        select([], [dial], [], 1)
        dial.connectionLost(Failure(reason()))
    assert bench.outcomes == [Outcome("Connection refused", answered=True)]
    assert bench.is_clean


def test_silence_is_a_failure_after_a_while(bench: Bench, full: Address) -> None:
    bench.dial(full)
    run(bench.reactor, TIMEOUT_S - 0.1)
    assert bench.outcomes == []
    run(bench.reactor, 0.3)
    assert bench.outcomes == [Outcome("no connection in 1.5 s", is_silent=True)]
    assert bench.is_clean


@pytest.fixture
def full() -> Iterator[Address]:
    """A listener whose queue is full: further SYNs get no answer."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        waiting = []
        for _ in range(2):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            waiting.append(sock)
        yield address
        for sock in waiting:
            sock.close()


def test_what_came_while_the_process_was_stalled_counts(bench: Bench) -> None:
    """Timers are called before descriptors."""
    with listening() as (_, address):
        bench.dial(address)
        run(bench.reactor, 10)
        assert [outcome.failure for outcome in bench.outcomes] == [""]


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOBUFS])
def test_a_fault_of_this_host_is_told_apart(bench: Bench, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> socket.socket:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("socket.socket", fail)
    bench.dial(("127.0.0.1", 80))
    assert bench.outcomes == [Outcome(os.strerror(error), is_local=True)]
    assert bench.is_clean


def test_an_address_without_a_route_is_a_failure(bench: Bench) -> None:
    bench.dial(("2001:db8:ffff::1", 80))
    while not bench.outcomes and bench.reactor.writers:
        bench.reactor.turn()
        run(bench.reactor, 1)
    (outcome,) = bench.outcomes
    assert outcome.failure
    assert not outcome.is_local
    assert bench.is_clean


def test_a_connect_to_itself_is_a_refusal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rproxy.sources.static.dial.is_self_connected", lambda *_: True)
    with listening() as (_, address):
        bench.dial(address)
        bench.reactor.turn()
        assert bench.outcomes == [Outcome("Connection refused", answered=True)]


def test_it_may_be_connected_in_another_way(bench: Bench) -> None:
    def from_elsewhere(sock: socket.socket, remote: Address) -> int:
        sock.bind(("127.0.0.9", 0))
        return sock.connect_ex(remote)

    with listening() as (server, address):
        bench.dial(address, connect=from_elsewhere)
        bench.reactor.turn()
        accepted, peer = server.accept()
        accepted.close()
    assert (peer[0], bench.outcomes[0].failure) == ("127.0.0.9", "")


def test_one_that_is_cancelled_is_silent(bench: Bench) -> None:
    with listening() as (_, address):
        dial = bench.dial(address)
        dial.cancel()
        dial.cancel()
        run(bench.reactor, 10)
        assert (bench.outcomes, bench.is_clean, dial.fileno()) == ([], True, -1)


class TestLines:
    @contextmanager
    def asked(self, bench: Bench) -> Iterator[socket.socket]:
        """The agent's end of a connection that has been made."""
        with listening() as (server, address):
            bench.dial(address, reads=True)
            bench.reactor.turn()
            agent, _ = server.accept()
            with agent:
                yield agent

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\nup\n"])
    def test_one_line_is_read(self, bench: Bench, end: str) -> None:
        with self.asked(bench) as agent:
            agent.send(f"drain 50%{end}".encode())
            bench.reactor.turn()
            assert [outcome.line for outcome in bench.outcomes] == ["drain 50%"]
            assert bench.is_clean
            with pytest.raises(ConnectionResetError):
                agent.recv(1)

    def test_in_fragments(self, bench: Bench) -> None:
        with self.asked(bench) as agent:
            for byte in b"maxconn:30 up\n":
                assert bench.outcomes == []
                agent.send(bytes([byte]))
                bench.reactor.turn()
            assert [outcome.line for outcome in bench.outcomes] == ["maxconn:30 up"]

    def test_an_end_of_stream_does_not_end_it(self, bench: Bench) -> None:
        with self.asked(bench) as agent:
            agent.send(b"down")
            agent.shutdown(socket.SHUT_WR)
            while not bench.outcomes:
                bench.reactor.turn()
            assert bench.outcomes == [Outcome("the line has no end", answered=True)]
            assert bench.is_clean

    def test_one_that_is_too_long_is_given_up(self, bench: Bench) -> None:
        with self.asked(bench) as agent:
            agent.sendall(b"x" * (LINE_MAX + 1))
            while not bench.outcomes:
                bench.reactor.turn()
            assert bench.outcomes[0].failure == "the line is longer than 4096 bytes"

    def test_one_that_trickles_has_no_more_time(self, bench: Bench) -> None:
        with self.asked(bench) as agent:
            while not bench.outcomes:
                agent.send(b" ")
                bench.reactor.turn()
                run(bench.reactor, 0.1)
            assert bench.reactor.seconds() == pytest.approx(TIMEOUT_S, abs=0.2)
            assert bench.outcomes == [Outcome("no line in 1.5 s", answered=True, is_silent=True)]
            assert bench.is_clean

    def test_a_reset_is_a_failure(self, bench: Bench) -> None:
        with self.asked(bench) as agent:
            agent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            agent.close()
            bench.reactor.turn()
            assert bench.outcomes == [Outcome("Connection reset by peer", answered=True)]

    def test_what_came_before_the_reactor_noticed_the_end_is_read(self, bench: Bench) -> None:
        with self.asked(bench) as agent:
            agent.send(b"up\n")
            agent.close()
            (dial,) = bench.reactor.readers
            select([dial], [], [], 1)
            dial.connectionLost(Failure(ConnectionDone()))
            assert [outcome.line for outcome in bench.outcomes] == ["up"]

    def test_and_if_nothing_did_it_is_over(self, bench: Bench) -> None:
        with self.asked(bench):
            (dial,) = bench.reactor.readers
            dial.connectionLost(Failure(ConnectionDone()))
            assert [outcome.failure for outcome in bench.outcomes] == ["Connection reset by peer"]
            assert bench.is_clean

    def test_a_line_that_came_while_the_process_was_stalled_counts(self, bench: Bench) -> None:
        with self.asked(bench) as agent:
            agent.send(b"up\n")
            run(bench.reactor, 10)
            assert [outcome.line for outcome in bench.outcomes] == ["up"]
