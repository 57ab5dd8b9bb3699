"""Faults in one session or at one port of the splice carrier, which do not affect the others."""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel

from rproxy.carriers.splice.reactor import TICK_S
from rproxy.carriers.splice.states import EOF, STALLED
from rproxy.pool.pool import Pool
from rproxy.sessions.endings import Ending
from rproxy.sessions.record import SessionRecord
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.session import CONNECT_TIMEOUT_S, FLUSH_CLIENT_S
from tests.carriers.loopback import SMALL, WAIT_S, listening, refusing, reset, stream
from tests.carriers.splicing import Splicing, black_hole, with_one_server
from tests.fakes import RaisingPolicy, connected, logged, texts


def assert_served(bench: Splicing, client: socket.socket, server: socket.socket) -> None:
    """A session of `client` carries data and ends in good order."""
    backend = bench.accept(server)
    client.send(b"question")
    assert bench.receive(backend, 8) == b"question"
    sessions = bench.capacity.sessions
    client.close()
    backend.close()
    bench.until(lambda: bench.capacity.sessions == sessions - 1)


def assert_logged_once(events: EventLoggingObserver) -> None:
    failures = [event for event in events if event["log_level"] is LogLevel.critical]
    assert len(failures) == 1
    assert isinstance(failures[0]["log_failure"].value, ValueError)


def is_let_go(bench: Splicing, client: socket.socket) -> bool:
    try:
        return bench.receive(client, 1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("broken", ["opened", "closed", "opened closed failed"])
def test_a_policy_that_fails_costs_no_session(stack: ExitStack, broken: str) -> None:
    bench = with_one_server(stack, policy=RaisingPolicy(*broken.split()))
    with logged() as events:
        assert_served(bench, bench.dial(), bench.servers[0])
    assert_logged_once(events)
    bench.assert_over(Ending.CLOSED)


def test_a_policy_that_fails_to_choose_costs_no_session(stack: ExitStack) -> None:
    policy = RaisingPolicy("choose")
    bench = with_one_server(stack, policy=policy)
    policy.times = 1
    with logged() as events:
        assert_served(bench, bench.dial(), bench.servers[0])
    assert_logged_once(events)
    bench.assert_over(Ending.CLOSED)


@pytest.mark.parametrize("broken", ["opened", "closed", "failed", "opened closed failed"])
def test_a_policy_that_fails_at_a_second_try_costs_no_session(stack: ExitStack, broken: str) -> None:
    policy = RaisingPolicy(*broken.split())
    bench = Splicing(stack, refusing("127.0.0.2"), listening(), policy=policy)
    with logged() as events:
        assert_served(bench, bench.dial(), bench.servers[1])
    assert_logged_once(events)
    bench.assert_over(Ending.CLOSED)


@pytest.mark.parametrize("broken", ["failed", "choose"])
def test_a_policy_that_fails_at_a_timeout_costs_no_session(stack: ExitStack, broken: str) -> None:
    """Two connects whose time is over in the same tick."""
    policy = RaisingPolicy()
    bench = Splicing(stack, black_hole(stack, "127.0.0.2"), listening(), policy=policy)
    clients = [bench.dial(), bench.dial()]
    bench.until(lambda: len(bench.sessions) == 2 and all(session.backend for session in bench.sessions))
    policy.broken.add(broken)
    policy.times = 1
    with logged() as events:
        bench.pass_s(CONNECT_TIMEOUT_S + TICK_S)
    assert_logged_once(events)
    for client in clients:
        assert_served(bench, client, bench.servers[1])
    bench.assert_over(Ending.CLOSED, Ending.CLOSED)


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the pool raise an exception, as a bug would."""
    method = getattr(Pool, name)
    calls = iter([True])

    def fail(*args: object, **options: object) -> object:
        if next(calls, False):
            raise ValueError("a bug")
        return method(*args, **options)

    monkeypatch.setattr(Pool, name, fail)


@pytest.mark.parametrize("name", ["choose", "connected", "closed"])
def test_a_bug_at_one_client_costs_that_client_only(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bench = with_one_server(stack)
    fail_once(monkeypatch, name)
    client = bench.dial()
    if name == "closed":
        bench.accept(bench.servers[0]).close()
        client.shutdown(socket.SHUT_WR)
    with logged() as events:
        assert is_let_go(bench, client)
        bench.until(lambda: bench.capacity.sessions == 0)
    assert_logged_once(events)
    while select.select([bench.servers[0]], [], [], 0)[0]:  # the connect that timed out may have been accepted, or not
        bench.servers[0].accept()[0].close()
    assert_served(bench, bench.dial(), bench.servers[0])
    assert (bench.capacity.sessions, bench.pipes.used, connected(bench.carrier)) == (0, 0, [])


def test_a_policy_that_fails_when_a_session_is_cut_costs_no_other_anything(stack: ExitStack) -> None:
    policy = RaisingPolicy()
    bench = with_one_server(stack, policy=policy)
    client, backend = bench.joined()
    policy.broken.add("closed")
    with suppress(ValueError):
        bench.sessions[0].link.cut(Ending.IDLE)
    assert bench.is_reset(client)
    assert bench.is_reset(backend)
    bench.assert_nothing_held()


def test_a_policy_that_fails_at_the_end_does_not_keep_the_carrier_from_ending_all(stack: ExitStack) -> None:
    policy = RaisingPolicy()
    bench = with_one_server(stack, policy=policy)
    ends = [end for _ in range(3) for end in bench.joined()]
    policy.broken.add("closed")
    with logged(), suppress(ValueError):
        bench.carrier.abort()
    policy.broken.clear()
    assert bench.capacity.sessions == 0
    assert bench.connections == [(0, 0)]
    for end in ends:
        with pytest.raises(ConnectionError):
            end.recv(1)


def test_an_event_of_a_leg_that_was_closed_in_the_same_batch_is_ignored(stack: ExitStack) -> None:
    """Both sides reset at once: two events, of which the first may end the session."""
    bench = with_one_server(stack)
    pairs = [bench.joined() for _ in range(20)]
    with logged() as events:
        for client, backend in pairs:
            client.send(b"x")
            backend.send(b"x")
            reset(client)
            reset(backend)
        bench.until(lambda: bench.turn(0.01) is False)
        bench.pass_s(1)
    assert [event for event in events if event["log_level"] is LogLevel.critical] == []
    assert bench.capacity.sessions == 0
    bench.assert_nothing_held()


def test_a_descriptors_number_is_not_given_to_another_before_the_batch_is_over(stack: ExitStack) -> None:
    """Otherwise the dead leg's event would reach the new leg, and its connect would count as failed."""
    bench = with_one_server(stack)
    client, backend = bench.joined()
    leg: Any = bench.sessions[0].link
    dead = [leg.sock.fileno(), leg.peer.sock.fileno()]
    newcomer = bench.dial()
    reset(client)
    reset(backend)
    events = dict[int, int]()
    while not all(events.get(descriptor, 0) & select.EPOLLERR for descriptor in dead):
        events |= bench.carrier._epoll.poll(WAIT_S)
    while stack.enter_context(socket.socket()).fileno() < max(dead):
        pass  # theirs are the lowest numbers then, once they are closed
    listener = bench.port.socket.fileno()
    bench.carrier._dispatcher.serve([(number, events[number]) for number in (dead[0], listener, dead[1])])
    assert bench.sessions[0].ending is Ending.CLIENT_RESET
    assert len(bench.sessions) == 2
    newcomers_backend = bench.accept(bench.servers[0])
    newcomer.send(b"question")
    assert bench.receive(newcomers_backend, 8) == b"question"
    assert bench.policy.told["failed"].total() == 0
    bench.pass_s(1)
    assert bench.connections == [(0, 1)]


def test_when_descriptors_run_out_clients_wait_for_the_next_tick(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = with_one_server(stack)
    accept = socket.socket._accept  # type: ignore[attr-defined]
    errors = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    def fail_first(sock: socket.socket) -> object:
        if errors:
            raise errors.pop()
        return accept(sock)

    port = bench.endpoint
    monkeypatch.setattr(socket.socket, "_accept", fail_first, raising=False)
    bench.carrier.serve(port, bench.service)  # type: ignore[arg-type]
    client = bench.dial(port.ports[1])
    bench.until(lambda: not errors)
    assert not bench.turn(0.05)
    assert bench.sessions == []
    bench.pass_s(TICK_S)
    backend = bench.accept(bench.servers[0])
    client.send(b"question")
    assert bench.receive(backend, 8) == b"question"


def test_when_descriptors_run_out_at_a_connect_it_counts_against_no_back_end(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = with_one_server(stack)
    client = bench.dial()
    real = socket.SocketType

    def refuse(family: int, kind: int, proto: int, descriptor: int | None = None) -> object:
        if descriptor is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(family, kind, proto, descriptor)

    with monkeypatch.context() as patched, logged():
        patched.setattr(socket, "SocketType", refuse)
        assert bench.receive(client, 1) == b""
    assert bench.policy.told["failed"].total() == 0
    bench.assert_over(Ending.UNREACHABLE)


def test_full_capacity_makes_clients_wait_until_a_session_ends(stack: ExitStack) -> None:
    bench = with_one_server(stack, sessions_max=2)
    with logged():
        pairs = [bench.joined(), bench.joined()]
        waiting = bench.dial()
        waiting.send(b"question")
        bench.quieten()
        assert len(bench.sessions) == 2
        for end in pairs[0]:
            end.close()
        backend = bench.accept(bench.servers[0])
    assert bench.receive(backend, 8) == b"question"
    assert bench.capacity.sessions == 2


def test_a_client_that_epoll_does_not_take_costs_only_itself(stack: ExitStack) -> None:
    """The user has reached fs.epoll.max_user_watches."""
    bench = with_one_server(stack)
    listeners: Any = bench.carrier._dispatcher._listeners
    register = listeners._register

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    client = bench.dial()
    listeners._register = refuse
    with logged():
        bench.until(lambda: bench.sessions)
        listeners._register = register
        assert is_let_go(bench, client)
    bench.assert_nothing_held()
    assert_served(bench, bench.dial(), bench.servers[0])


def test_an_error_after_both_ends_of_stream_leaves_no_timer_behind(stack: ExitStack) -> None:
    """As when a host vanishes before it has acknowledged the last of it, and the other side reads slowly."""
    bench = with_one_server(stack)
    client = bench.dial(buffer=SMALL)
    backend = bench.accept(bench.servers[0])
    bench.leg_of(client).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    client.shutdown(socket.SHUT_WR)
    assert bench.receive(backend, 1) == b""
    leg: Any = bench.sessions[0].link
    descriptor = leg.peer.sock.fileno()
    answer = stream(60_000)
    backend.send(answer)
    backend.shutdown(socket.SHUT_WR)
    bench.until(lambda: leg.peer.state & EOF)
    assert leg.state & STALLED
    bench.carrier._dispatcher.serve([(descriptor, select.EPOLLERR)])
    assert bench.receive(client, len(answer)) == answer
    bench.until(lambda: bench.capacity.sessions == 0)
    bench.pass_s(FLUSH_CLIENT_S + 1)
    bench.assert_nothing_held()
    assert bench.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("size", [60_000, 2_000], ids=["more than the kernel takes", "all in the kernel"])
def test_a_client_has_time_to_read_the_answer_of_a_server_that_ended_and_is_gone(stack: ExitStack, size: int) -> None:
    """As when keepalive finds, after a minute, that a server has closed and forgotten the connection."""
    bench = with_one_server(stack)
    client = bench.dial(buffer=SMALL)
    backend = bench.accept(bench.servers[0])
    bench.leg_of(client).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    answer = stream(size)
    backend.send(answer)
    backend.shutdown(socket.SHUT_WR)
    leg: Any = bench.sessions[0].link
    bench.until(lambda: leg.peer.state & EOF)
    reset(backend)
    bench.until(lambda: leg.peer is None or leg in bench.carrier._dispatcher.table.flushing)
    bench.pass_s(10 * FLUSH_CLIENT_S)
    assert bench.receive(client, len(answer)) == answer
    bench.until(lambda: bench.pass_s(TICK_S) or not bench.capacity.sessions)  # type: ignore[func-returns-value]
    bench.assert_over(Ending.BACKEND_RESET)
    assert bench.reactor.getDelayedCalls() == []


def test_a_client_that_never_reads_the_answer_of_a_server_that_is_gone_is_reset(stack: ExitStack) -> None:
    bench = with_one_server(stack, terms=ServiceTerms(reader_timeout_s=100.0))
    client = bench.dial(buffer=SMALL)
    backend = bench.accept(bench.servers[0])
    bench.leg_of(client).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    backend.send(stream(60_000))
    backend.shutdown(socket.SHUT_WR)
    leg: Any = bench.sessions[0].link
    bench.until(lambda: leg.peer.state & EOF)
    reset(backend)
    bench.until(lambda: leg.peer is None or leg in bench.carrier._dispatcher.table.flushing)
    bench.pass_s(99)
    assert bench.capacity.sessions == 1
    bench.pass_s(2)
    bench.assert_over(Ending.BACKEND_RESET)


def test_an_observer_that_fails_costs_no_session_anything(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = with_one_server(stack)

    def fail(_: SessionRecord) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(bench, "session_ended", fail)
    with logged() as events:
        for _ in range(2):
            for end in bench.joined():
                end.close()
            bench.until(lambda: bench.capacity.sessions == 0)
    bench.assert_over(Ending.CLOSED, Ending.CLOSED)
    assert [text.partition(";")[0] for text in texts(events)] == ["an observer of sessions failed"]
