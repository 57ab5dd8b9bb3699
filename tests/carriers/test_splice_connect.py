"""Redispatch and the wait queue in the splice carrier."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from rproxy.carriers.splice.reactor import TICK_S
from rproxy.carriers.splice.states import EARLY, WAITING
from rproxy.pool.states import Administration
from rproxy.sessions.endings import Ending
from rproxy.sessions.redispatch import EARLY_DATA_MAX, EARLY_END_S
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.session import FLUSH_BACKEND_S
from tests.carriers.loopback import WAIT_S, listening, reset, stream, wait_for
from tests.carriers.splicing import Splicing, black_hole


@pytest.fixture
def bench(stack: ExitStack) -> Splicing:
    return Splicing(stack, listening(), listening())


def end(backend: socket.socket, how: str) -> None:
    if how == "reset":
        reset(backend)
    elif how == "closed":
        backend.close()
    else:
        backend.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("how", ["reset", "closed", "half-closed"])
@pytest.mark.parametrize("size", [0, 5, 5000, EARLY_DATA_MAX])
def test_what_a_back_end_did_not_answer_goes_to_another(bench: Splicing, how: str, size: int) -> None:
    client, first = bench.joined()
    request = stream(size)
    bench.send(client, request)
    assert bench.receive(first, size) == request
    end(first, how)
    second = bench.accept(bench.servers[1])
    assert bench.receive(second, size) == request
    bench.send(client, b"more")
    assert bench.receive(second, 4) == b"more"
    second.send(b"answer")
    assert bench.receive(client, 6) == b"answer"
    assert bench.policy.told["failed"].total() == 1
    for side in (client, second):
        side.close()
    bench.assert_over(Ending.CLOSED)
    assert (bench.counters.up, bench.counters.down) == (size + 4, 6)


@pytest.mark.parametrize("how", ["reset", "ended"])
def test_what_a_back_end_did_not_even_take_goes_to_another(bench: Splicing, how: str) -> None:
    """The back-end does not read, so the last data is still in the proxy."""
    client = bench.dial()
    first = bench.accept(bench.servers[0])
    first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bench.until(lambda: bench.sessions[0].is_connected)
    leg: Any = bench.sessions[0].link
    leg.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    request = stream(EARLY_DATA_MAX - 1)
    bench.send(client, request)
    bench.quieten()
    if how == "reset":
        reset(first)
    else:
        first.shutdown(socket.SHUT_WR)
    assert bench.receive(bench.accept(bench.servers[1]), len(request)) == request


def test_an_end_that_comes_with_the_connect_is_an_early_one(bench: Splicing) -> None:
    """The proxy had something else to do for longer than the kernel holds back the handshake's last ACK."""
    bench.carrier._rounds = 1
    client = bench.dial()
    bench.turn(WAIT_S)
    wait_for(bench.servers[0])
    bench.servers[0].accept()[0].close()
    second = bench.accept(bench.servers[1])
    second.send(b"welcome")
    assert bench.receive(client, 7) == b"welcome"
    assert bench.policy.told["failed"].total() == 1


def test_where_the_others_refuse_a_client_whose_bytes_are_lost_is_reset(bench: Splicing) -> None:
    client, first = bench.joined()
    bench.send(client, b"question")
    assert bench.receive(first, 8) == b"question"
    bench.servers[1].close()
    reset(first)
    assert bench.is_reset(client)
    bench.assert_over(Ending.UNREACHABLE)


def test_a_client_that_has_ended_ends_there_too(bench: Splicing) -> None:
    client, first = bench.joined()
    bench.send(client, b"question")
    client.shutdown(socket.SHUT_WR)
    assert bench.receive(first, 9) == b"question"
    reset(first)
    assert bench.receive(bench.accept(bench.servers[1]), 9) == b"question"


@pytest.mark.parametrize("how", ["late", "answered", "too much", "asked for"])
def test_otherwise_the_client_gets_the_end_as_it_is(bench: Splicing, how: str) -> None:
    client, first = bench.joined()
    request = stream(EARLY_DATA_MAX + 1 if how == "too much" else 5)
    bench.send(client, request)
    assert bench.receive(first, len(request)) == request
    if how == "late":
        bench.pass_s(EARLY_END_S + 2 * TICK_S)
    elif how == "answered":
        first.send(b"!")
        assert bench.receive(client, 1) == b"!"
    elif how == "asked for":
        client.shutdown(socket.SHUT_WR)
        assert bench.receive(first, 1) == b""
    if how == "asked for":
        first.close()
        assert bench.receive(client, 1) == b""
    else:
        reset(first)
        assert bench.is_reset(client)
    assert bench.policy.told["failed"].total() == 0
    assert not select.select([bench.servers[1]], [], [], 0)[0]


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_without_another_back_end_the_client_gets_the_end_as_it_is(stack: ExitStack, how: str) -> None:
    bench = Splicing(stack, listening())
    client, first = bench.joined()
    end(first, how)
    assert bench.is_reset(client) is (how == "reset")
    assert bench.policy.told["failed"].total() == 0


@pytest.mark.parametrize("word", [b"", b"question"])
def test_early_data_is_dropped_with_the_answer_or_when_the_session_has_settled(bench: Splicing, word: bytes) -> None:
    client, backend = bench.joined()
    bench.send(client, b"question")
    assert bench.receive(backend, 8) == b"question"
    session = bench.sessions[0]
    assert session.early_data == b"question"
    if word:
        backend.send(b"answer")
        bench.receive(client, 6)
        bench.send(client, word)
        bench.receive(backend, len(word))
    else:
        bench.pass_s(EARLY_END_S + 2 * TICK_S)
    leg: Any = session.link
    assert (session.early_data, leg.peer.state & EARLY) == (b"", 0)


def with_waiting(stack: ExitStack) -> tuple[Splicing, socket.socket]:
    """A client that waits for a back-end which drains."""
    bench = Splicing(stack, listening(), terms=ServiceTerms(wait_s=5.0))
    bench.publish(bench.pool.administer(next(iter(bench.pool)), Administration.DRAIN, bench.service.seconds()))
    client = bench.dial()
    bench.until(lambda: bench.sessions and bench.sessions[0].waited)
    leg: Any = bench.sessions[0].link
    assert leg.state & WAITING
    return bench, client


def come(bench: Splicing) -> socket.socket:
    bench.publish(bench.pool.administer(next(iter(bench.pool)), Administration.READY, bench.service.seconds()))
    bench.pass_s(0)
    return bench.accept(bench.servers[0])


@pytest.mark.parametrize("ended", [False, True])
def test_a_client_that_has_waited_is_carried_as_if_it_had_come_now(stack: ExitStack, ended: bool) -> None:
    bench, client = with_waiting(stack)
    bench.send(client, b"question")
    if ended:
        client.shutdown(socket.SHUT_WR)
    bench.quieten()
    backend = come(bench)
    assert bench.receive(backend, 9 if ended else 8) == b"question"
    backend.send(b"answer")
    backend.close()
    assert bench.receive(client, 7) == b"answer"
    client.close()
    bench.assert_over(Ending.CLOSED)


@pytest.mark.parametrize("how", ["reset", "reset after data", "closed"])
def test_a_client_that_leaves_while_it_waits_is_gone(stack: ExitStack, how: str) -> None:
    bench, client = with_waiting(stack)
    if "data" in how:
        bench.send(client, b"never mind")
        bench.quieten()
    end(client, "closed" if how == "closed" else "reset")
    bench.assert_over(Ending.CLIENT_GONE)
    assert not bench.service.wait_queue.queue


def test_a_client_that_has_waited_long_enough_is_refused(stack: ExitStack) -> None:
    bench, client = with_waiting(stack)
    bench.pass_s(5)
    assert bench.receive(client, 1) == b""
    bench.assert_over(Ending.NO_BACKEND)
    bench.served.stop()


def test_waiting_clients_are_ended_with_all_others(stack: ExitStack) -> None:
    bench, client = with_waiting(stack)
    bench.carrier.abort()
    with pytest.raises(ConnectionError):
        client.recv(1)
    assert not bench.service.wait_queue.queue


@pytest.mark.parametrize("early", [b"", b"question"])
def test_a_reset_while_connecting_still_delivers_what_was_sent_before(stack: ExitStack, early: bytes) -> None:
    bench = Splicing(stack, black_hole(stack, "127.0.0.2"))
    client = bench.dial()
    bench.until(lambda: bench.sessions and bench.sessions[0].backend)
    if early:
        bench.send(client, early)
    reset(client)
    bench.quieten()
    assert (bench.capacity.sessions == 0) is (not early)
    bench.pass_s(FLUSH_BACKEND_S + 2 * TICK_S)
    assert bench.capacity.sessions == 0
