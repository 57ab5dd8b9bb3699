"""Back-ends that accept and end the connection before a byte: to clients they are as good as refusing."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest

from tests.integration.conftest import Certificate, Starter, Variant, every_transport
from tests.integration.dials import LISTENERS, Dial
from tests.integration.fake_agents import BUSY, IDLE
from tests.integration.polling import PROMPT_S, READY_S, poll
from tests.integration.pools import Pool
from tests.integration.servers import Server, echo
from tests.integration.sockets import digest, payload, receive, receive_all, receive_until_reset, reset

CLIENTS: Final = 40

pytestmark = [every_transport, pytest.mark.alone]  # an end is early for 0.1 s only


def close_at_once(connection: socket.socket) -> None:
    """The server closes it; with a reset if it has not read what came."""


def reset_after(size: int) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        if size:
            receive(connection, size)
        reset(connection)

    return handle


def close_after(size: int) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        receive(connection, size)

    return handle


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        receive_all(connection)


ENDS: Final = {
    "reset": reset_after(0),
    "closed": close_at_once,
    "reset after the request": reset_after(3),
    "closed after the request": close_after(3),
    "half-closed": half_close,
}


def ask(pool: Pool, request: bytes, *, end: bool = False) -> bytes:
    """What a client gets; a reset is an error."""
    client = pool.connect()
    client.sendall(request)
    if end:
        client.shutdown(socket.SHUT_WR)
        return receive_all(client)
    return receive(client, len(request))


@pytest.mark.parametrize("how", ENDS)
def test_no_client_notices_a_back_end_that_ends_at_once_and_it_goes_down(
    variant: Variant, start: Starter, how: str
) -> None:
    """It has one client after each report, as one that refuses has."""
    pool = Pool(start.proxy(*variant.options, "--probe-interval", "0.2", reactor=variant.reactor))
    start.closing(pool.abandon)
    bad = pool.serve(ENDS[how], IDLE)
    pool.serve(echo, BUSY)

    def served_and_down() -> bool:
        assert ask(pool, b"abc") == b"abc"
        return pool.proxy.state(bad.address) == "down"

    poll(served_and_down, READY_S, "it is down")
    for _ in range(CLIENTS):
        assert ask(pool, b"abc") == b"abc"
    assert (
        pool.proxy.backends()[bad.address]["total"] <= 3
    )  # a reset may come before the connect is seen to have succeeded
    assert "3 connects in a row failed" in pool.proxy.log
    assert pool.proxy.status()["counters"]["redispatches"] == 3


def test_all_that_a_client_has_sent_goes_to_the_next_one_in_order_and_its_end_too(pool: Pool) -> None:
    """In several pieces, and more of it while the second connect is under way."""
    took: list[int] = []

    def take_some(connection: socket.socket) -> None:
        took.append(len(receive(connection, 5000)))
        reset(connection)

    pool.serve(take_some, IDLE)
    pool.serve(echo, BUSY)
    body = payload(40_000)
    for piece in (1, 700, 5000, 30_000):
        client = pool.connect()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(body), piece):
            if start < 3 * piece:
                client.sendall(body[start : start + piece])
                time.sleep(0.002)
            else:
                client.sendall(body[start:])
                break
        client.shutdown(socket.SHUT_WR)
        assert digest(receive_all(client)) == digest(body)
    assert took


def test_a_half_closed_client_whose_back_end_resets_is_given_to_another(pool: Pool) -> None:
    pool.serve(reset_after(5), IDLE)
    pool.serve(echo, BUSY)
    assert ask(pool, b"hello", end=True) == b"hello"


def test_an_end_is_an_answer_to_a_client_that_has_ended(own_pool: Pool) -> None:
    """A port check, or a request without an answer: neither is redispatched, nor counted against the back-end."""
    got: list[bytes] = []

    def swallow(connection: socket.socket) -> None:
        got.append(receive_all(connection))
        if not got[-1]:
            reset(connection)

    first = own_pool.serve(swallow, IDLE)
    other = own_pool.serve(swallow, BUSY)
    for _ in range(5):
        assert ask(own_pool, b"log this", end=True) == b""
        own_pool.connect().close()
    poll(lambda: len(got) == 10, READY_S, "all have come")
    assert Counter(got) == {b"log this": 5, b"": 5}
    assert own_pool.proxy.status()["counters"]["redispatches"] == 0
    assert {own_pool.proxy.state(each.address) for each in (first, other)} == {"up"}


@pytest.mark.parametrize(("handle", "is_reset"), [(close_after(3), False), (reset_after(3), True)])
def test_where_all_end_at_once_the_client_gets_the_last_end_as_it_was(
    own_pool: Pool, handle: Callable[[socket.socket], None], is_reset: bool
) -> None:
    """At most three are tried, and the last one that is left stays up: the service may be so."""
    tries: list[int] = []
    lock = threading.Lock()

    def count(connection: socket.socket) -> None:
        with lock:
            tries.append(1)
        handle(connection)

    servers = [own_pool.serve(count) for _ in range(5)]
    most = 0

    def one_is_left() -> bool:
        nonlocal most
        before = len(tries)
        client = own_pool.connect()
        client.sendall(b"abc")
        assert (receive_until_reset(client) if is_reset else receive_all(client)) == b""
        most = max(most, len(tries) - before)
        return [own_pool.proxy.state(server.address) for server in servers].count("up") == 1

    poll(one_is_left, READY_S, "one is left")
    for _ in range(5):
        assert one_is_left()
    assert most == 3


@pytest.mark.parametrize("handle", [close_after(3), reset_after(3)], ids=["closed", "reset"])
def test_a_lone_back_end_that_ends_at_once_stays_up(own_pool: Pool, handle: Callable[[socket.socket], None]) -> None:
    server = own_pool.serve(handle)
    for _ in range(10):
        client = own_pool.connect()
        client.sendall(b"abc")
        with suppress(ConnectionResetError):
            assert receive_all(client) == b""
    assert own_pool.proxy.state(server.address) == "up"


def answer_a_byte(connection: socket.socket) -> None:
    receive(connection, 3)
    connection.sendall(b"!")
    reset(connection)


def wait_and_reset(connection: socket.socket) -> None:
    receive(connection, 3)
    time.sleep(0.4)
    reset(connection)


def read_much_and_reset(connection: socket.socket) -> None:
    receive(connection, 200_000)
    reset(connection)


@pytest.mark.parametrize(
    ("handle", "request_", "answer"),
    [(answer_a_byte, b"abc", b"!"), (wait_and_reset, b"abc", b""), (read_much_and_reset, payload(200_000), b"")],
    ids=["answered", "late", "more than is kept"],
)
def test_what_has_been_answered_or_is_late_or_too_much_is_not_sent_again(
    pool: Pool, handle: Callable[[socket.socket], None], request_: bytes, answer: bytes
) -> None:
    pool.serve(handle, IDLE)
    other = pool.serve(echo, BUSY)
    client = pool.connect()
    client.sendall(request_)
    assert receive_until_reset(client) == answer
    assert pool.proxy.backends()[other.address]["total"] == 0


@pytest.mark.parametrize(("mode", "sent", "elsewhere"), [("off", b"", 0), ("unsent", b"abc", 0), ("unsent", b"", 1)])
def test_an_operator_may_forbid_it(variant: Variant, start: Starter, mode: str, sent: bytes, elsewhere: int) -> None:
    pool = Pool(start.proxy(*variant.options, "--redispatch-early", mode, reactor=variant.reactor))
    start.closing(pool.abandon)

    def reset_once_connected(connection: socket.socket) -> None:
        """Before that it would be a connect that fails."""
        receive(connection, len(sent))
        poll(lambda: pool.proxy.backends()[resetting.address]["total"] == 1, PROMPT_S, "the proxy is connected")
        reset(connection)

    resetting: Server = pool.serve(reset_once_connected, IDLE)
    other: Server = pool.serve(lambda connection: connection.sendall(b"hello"), BUSY)
    client = pool.connect()
    client.sendall(sent)
    if elsewhere:
        assert receive_all(client) == b"hello"
    else:
        assert receive_until_reset(client) == b""
    assert pool.proxy.backends()[other.address]["total"] == elsewhere


@pytest.mark.parametrize(("position", "dial"), LISTENERS)
def test_clients_at_every_kind_of_listener_are_given_to_another(
    pool: Pool, certificate: Certificate, position: int, dial: Dial
) -> None:
    pool.serve(reset_after(5), IDLE)
    pool.serve(echo, BUSY)
    client = pool.keep(dial(pool.proxy.listeners[position], certificate))
    client.sendall(b"hello")
    assert receive(client, 5) == b"hello"
