"""Sessions of the splice carrier, between real sockets in this process."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from rproxy.carriers.splice import endings
from rproxy.carriers.splice.reactor import TICK_S
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import CONNECT_TIMEOUT_S, FLUSH_CLIENT_S
from tests.carriers.loopback import descriptors, listening, refusing, reset, stream, wait_for
from tests.carriers.splicing import Splicing, black_hole, with_one_server
from tests.fakes import connected, logged, texts

BULKY = stream(3_000_000)


@pytest.fixture
def bench(stack: ExitStack) -> Splicing:
    return with_one_server(stack)


def test_a_session_carries_both_ways_to_the_end_and_is_accounted_for(bench: Splicing) -> None:
    client, backend = bench.joined()
    assert bench.connections == [(0, 1)]
    client.send(b"question")
    assert bench.receive(backend, 8) == b"question"
    backend.send(b"an answer")
    backend.shutdown(socket.SHUT_WR)
    assert bench.receive(client, 10) == b"an answer"
    assert bench.sessions[0].half_closed
    client.shutdown(socket.SHUT_WR)
    assert bench.receive(backend, 1) == b""
    bench.assert_over(Ending.CLOSED)
    assert (bench.sessions[0].up, bench.sessions[0].down) == (8, 9)
    assert (bench.counters.up, bench.counters.down) == (8, 9)


def test_bulk_goes_both_ways_and_its_pipes_are_given_back(bench: Splicing) -> None:
    client, backend = bench.joined()
    for source, sink in ((client, backend), (backend, client)):
        sent, received = memoryview(BULKY), bytearray()
        while len(received) < len(BULKY):
            if sent:
                sent = sent[source.send(sent[:200_000]) :]
                if not sent:
                    source.shutdown(socket.SHUT_WR)
            received += bench.receive(sink, min(200_000, len(BULKY) - len(sent) - len(received)))
        assert bytes(received) == BULKY
        assert bench.receive(sink, 1) == b""
    bench.assert_over(Ending.CLOSED)
    assert (bench.counters.up, bench.counters.down) == (len(BULKY), len(BULKY))


def test_what_a_client_sends_early_reaches_the_back_end_with_its_end_of_stream(bench: Splicing) -> None:
    client = bench.dial()
    client.send(b"early")
    client.shutdown(socket.SHUT_WR)
    backend = bench.accept(bench.servers[0])
    assert bench.receive(backend, 6) == b"early"
    backend.close()
    assert bench.receive(client, 1) == b""
    bench.assert_over(Ending.CLOSED)


def test_a_server_may_speak_first(bench: Splicing) -> None:
    client, backend = bench.joined()
    backend.send(b"welcome")
    assert bench.receive(client, 7) == b"welcome"


@pytest.mark.parametrize("resetting", ["client", "back-end"])
def test_a_reset_follows_what_was_sent_before_it_and_is_accounted_for(bench: Splicing, resetting: str) -> None:
    client, backend = bench.joined()
    one, other = (client, backend) if resetting == "client" else (backend, client)
    one.send(b"half of it")
    reset(one)
    assert bench.receive(other, 10) == b"half of it"
    bench.until(lambda: bench.sessions[0].ending)
    bench.pass_s(2 * TICK_S)
    assert bench.is_reset(other)
    bench.assert_over(Ending.CLIENT_RESET if resetting == "client" else Ending.BACKEND_RESET)
    assert (bench.counters.up, bench.counters.down) == ((10, 0) if resetting == "client" else (0, 10))


@pytest.mark.parametrize("how", ["closed", "client reset", "back-end reset", "cut"])
def test_the_clients_address_is_known_when_its_session_has_ended(bench: Splicing, how: str) -> None:
    client, backend = bench.joined()
    host, port = client.getsockname()
    if how == "cut":
        bench.sessions[0].link.cut(Ending.IDLE)
    elif how == "closed":
        backend.close()
        assert bench.receive(client, 1) == b""
        client.close()
    else:
        reset(client if how == "client reset" else backend)
    bench.until(lambda: bench.clients)
    assert bench.clients == [f"{host}:{port}"]


def test_a_client_that_does_not_read_is_reset_when_its_time_after_the_back_ends_reset_is_over(bench: Splicing) -> None:
    client, backend = bench.joined()
    bench.stall(backend)
    reset(backend)
    bench.quieten()
    bench.pass_s(FLUSH_CLIENT_S - 1)
    assert bench.capacity.sessions == 1
    bench.pass_s(1 + 2 * TICK_S)
    assert bench.is_reset(client)
    bench.assert_over(Ending.BACKEND_RESET)


def test_of_many_such_clients_only_some_are_checked_in_one_tick_and_each_in_its_turn(
    bench: Splicing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "CHECKS_MAX", 1)
    clients = []
    for _ in range(3):
        client, backend = bench.joined()
        bench.stall(backend)
        bench.quieten()
        reset(backend)
        clients.append(client)
    bench.quieten()
    looks: list[int] = []
    check = endings.LegTable._check_flushing

    def look(table: Any, leg: Any, *, overdue: bool) -> None:
        looks.append(leg.sock.fileno())
        check(table, leg, overdue=overdue)

    monkeypatch.setattr(endings.LegTable, "_check_flushing", look)
    table = bench.carrier._dispatcher.table
    for _ in range(3):
        table.tick(bench.reactor.seconds())
    assert len(looks) == 3
    assert len(set(looks)) == 3
    bench.pass_s(FLUSH_CLIENT_S + 4 * TICK_S)
    assert all(bench.is_reset(client) for client in clients)
    bench.assert_over(*3 * [Ending.BACKEND_RESET])


def test_when_neither_side_takes_anything_nothing_is_done(bench: Splicing) -> None:
    client, backend = bench.joined()
    for source in (client, backend):
        bench.stall(source)
    bench.quieten()
    assert bench.pipes.used == 2
    bench.until(lambda: sum(bench.turn(0.02) for _ in range(10)) <= 3)  # the kernel may retry a few times


def is_reset(sock: socket.socket) -> bool:
    """Whether the reset has come, behind whatever came before it. The carrier may be closed already."""
    wait_for(sock, select.POLLERR)
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        return True
    return False


def stalled_and_cut(bench: Splicing) -> None:
    bench.sessions[0].link.cut(Ending.IDLE)


def stalled_and_aborted(bench: Splicing) -> None:
    bench.carrier.abort()


@pytest.mark.parametrize(("end", "ending"), [(stalled_and_cut, Ending.IDLE), (stalled_and_aborted, Ending.STOPPED)])
def test_pipes_are_given_back_when_a_stalled_session_is_ended(
    bench: Splicing, end: Callable[[Splicing], None], ending: Ending
) -> None:
    client, backend = bench.joined()
    bench.stall(client)
    assert bench.pipes.used == 1
    end(bench)
    assert bench.pipes.used == 0
    assert [session.ending for session in bench.sessions] == [ending]
    assert bench.capacity.sessions == 0
    assert all(is_reset(side) for side in (client, backend))


@pytest.mark.parametrize("resetting", ["reader", "sender"])
def test_a_pipe_is_given_back_when_a_stalled_session_is_reset(bench: Splicing, resetting: str) -> None:
    client, backend = bench.joined()
    bench.stall(client)
    reset(client if resetting == "sender" else backend)
    bench.quieten()
    bench.pass_s(FLUSH_CLIENT_S + 1)
    bench.assert_over(Ending.CLIENT_RESET if resetting == "sender" else Ending.BACKEND_RESET)


def test_a_connect_that_is_refused_goes_to_another_back_end(stack: ExitStack) -> None:
    bench = Splicing(stack, refusing("127.0.0.2"), listening())
    client = bench.dial()
    backend = bench.accept(bench.servers[1])
    client.send(b"question")
    assert bench.receive(backend, 8) == b"question"
    assert bench.counters.redispatches == 1
    assert [each.address for each in bench.policy.told["failed"]] == ["127.0.0.2"]
    assert bench.connections == [(0, 0), (0, 1)]


def test_a_session_whose_first_connect_failed_is_as_any_other(stack: ExitStack) -> None:
    """What it carries is seen, and it can be cut: by timeouts."""
    bench = Splicing(stack, refusing("127.0.0.2"), listening())
    client = bench.dial()
    backend = bench.accept(bench.servers[1])
    client.send(b"question")
    bench.receive(backend, 8)
    (session,) = connected(bench.carrier)
    assert session.link.carried() == (8, 0)
    assert session.link.unsent() >= 0
    session.link.cut(Ending.IDLE)
    assert bench.is_reset(client)
    bench.assert_over(Ending.IDLE)


def test_a_connect_that_is_not_answered_goes_to_another_back_end_in_time(stack: ExitStack) -> None:
    bench = Splicing(stack, black_hole(stack, "127.0.0.2"), listening())
    bench.dial()
    bench.until(lambda: bench.sessions and bench.sessions[0].backend)
    bench.pass_s(CONNECT_TIMEOUT_S - 0.01)
    assert bench.connections == [(1, 0), (0, 0)]
    bench.pass_s(0.01 + TICK_S)
    assert bench.connections == [(0, 0), (1, 0)]
    bench.accept(bench.servers[1])
    assert [each.address for each in bench.policy.told["failed"]] == ["127.0.0.2"]


def test_a_client_that_no_back_end_answers_is_refused_within_five_seconds(stack: ExitStack) -> None:
    bench = Splicing(stack, *[black_hole(stack, f"127.0.0.{number}") for number in (2, 3, 4, 5)])
    client = bench.dial()
    bench.until(lambda: bench.sessions)
    with logged() as events:
        bench.pass_s(5)
    assert bench.receive(client, 1) == b""
    assert "no back-end could be connected to" in texts(events)[0]
    bench.assert_over(Ending.UNREACHABLE)


def test_a_client_that_resets_while_its_connect_is_on_the_way_is_gone(stack: ExitStack) -> None:
    bench = Splicing(stack, black_hole(stack, "127.0.0.2"))
    client = bench.dial()
    bench.until(lambda: bench.sessions and bench.sessions[0].backend)
    reset(client)
    bench.assert_over(Ending.CLIENT_GONE)
    bench.pass_s(CONNECT_TIMEOUT_S)
    assert bench.policy.told["failed"].total() == 0
    assert bench.reactor.getDelayedCalls() == []


def test_without_a_back_end_the_client_is_refused(stack: ExitStack) -> None:
    bench = Splicing(stack)
    client = bench.dial()
    with logged():
        assert bench.receive(client, 1) == b""
    bench.assert_over(Ending.NO_BACKEND)


def test_without_recent_or_flushing_legs_there_is_no_timer(bench: Splicing) -> None:
    client, backend = bench.joined()
    bench.pass_s(3 * TICK_S)
    assert bench.reactor.getDelayedCalls() == []
    client.send(b"question")
    assert bench.receive(backend, 8) == b"question"
    assert bench.reactor.getDelayedCalls() == []


def test_a_session_without_a_trace_logs_nothing(bench: Splicing) -> None:
    with logged() as events:
        client, backend = bench.joined()
        client.send(b"question")
        client.close()
        bench.receive(backend, 9)
        backend.close()
        bench.assert_over(Ending.CLOSED)
    assert list(events) == []


def test_descriptors_are_free_as_soon_as_both_sides_have_closed(bench: Splicing) -> None:
    before = descriptors()
    client, backend = bench.joined()
    assert len(descriptors()) == len(before) + 4
    client.close()
    backend.close()
    bench.assert_over(Ending.CLOSED)
    assert descriptors() == before


@pytest.mark.parametrize("write", [b"x" * 1025, b"x" * 10])
def test_the_legs_options_are_those_of_their_age_and_traffic(bench: Splicing, write: bytes) -> None:
    client, backend = bench.joined()
    near, accepted = bench.leg_of(backend), bench.leg_of(client)
    with near, accepted:
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
        assert [bool(accepted.getsockopt(*option)) for option in options] == [True, True]
        assert [bool(near.getsockopt(*option)) for option in options] == [False, False]
        bench.pass_s(2 * TICK_S)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        client.send(write)
        bench.receive(backend, len(write))
        assert bool(near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is (len(write) > 1024)
        client.send(write)
        bench.receive(backend, len(write))
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
