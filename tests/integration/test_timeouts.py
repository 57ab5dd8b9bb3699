"""Sessions on which nothing moves are reset in time, half-closed ones sooner; and no others are."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import pytest

from tests.integration.conftest import Certificate, Starter, Variant, every_carrier, every_listener
from tests.integration.dials import DIALS
from tests.integration.polling import PROMPT_S, READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.sockets import (
    SMALL_BUFFER,
    ordered,
    receive,
    receive_all,
    receive_now,
    send_until_blocked,
    wait_for_reset,
)
from tests.integration.streams import Stream, check_rest, flood

pytestmark = every_carrier

IDLE_S: Final = 1.6
HALF_CLOSED_S: Final = 0.8
TOLERANCE: Final = 1.25
"""A timeout may be this many times late."""
BUSY_S: Final = 0.5
"""And later by this, because the machine is busy."""
SIGNS_S: Final = HALF_CLOSED_S / 4
"""Between signs of life of a session that must stay."""

either_first = pytest.mark.parametrize("first", ["client", "server"])


@pytest.fixture(scope="module")
def timed_proxy(
    variant: Variant, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """With short timeouts, and every kind of listener."""
    folder = tmp_path_factory.mktemp("timed")
    timeouts = ["--idle-timeout", f"{IDLE_S:g}", "--half-close-timeout", f"{HALF_CLOSED_S:g}"]
    with Proxy(folder, *every_listener(folder, certificate), *variant.tls_options, *timeouts) as proxy:
        yield proxy


@pytest.fixture
def pool(timed_proxy: Proxy) -> Iterator[Pool]:
    pool = Pool(timed_proxy)
    yield pool
    pool.close()


def end_writing(one: socket.socket, other: socket.socket) -> None:
    """A half-close that has arrived."""
    one.shutdown(socket.SHUT_WR)
    assert receive_all(other) == b""


def assert_reset_in_time(started: float, timeout_s: float, *sides: socket.socket) -> None:
    """`started` is a moment just before the last sign of life."""
    for side in sides:
        wait_for_reset(side, started + TOLERANCE * timeout_s + BUSY_S - time.monotonic())
        took_s = time.monotonic() - started
        assert took_s >= timeout_s, f"reset after {took_s:.2f} s"


def ended(proxy: Proxy, ending: str) -> int:
    return proxy.sessions().get(ending, 0)


def told(proxy: Proxy, ending: str, timeout_s: float, logged: int, number: int) -> list[int]:
    """The counts of ended sessions in the log from offset `logged`, by line; they must add up to `number`."""
    line = rf"(\d+) session\(s\) closed: {ending} and silent for {timeout_s:g} s"

    def counts() -> list[int] | None:
        found = [int(count) for count in re.findall(line, proxy.log[logged:])]
        return found if sum(found) >= number else None

    found = poll(counts, PROMPT_S, f"{number} are logged")
    assert sum(found) == number
    return found


def test_an_idle_session_is_reset_on_both_sides_in_time_counted_and_logged(pool: Pool) -> None:
    before, logged = ended(pool.proxy, "idle"), len(pool.proxy.log)
    client, server = pool.link()
    started = time.monotonic()
    client.sendall(b"x")
    assert receive(server, 1) == b"x"
    assert_reset_in_time(started, IDLE_S, client, server)
    assert ended(pool.proxy, "idle") == before + 1
    assert told(pool.proxy, "idle", IDLE_S, logged, 1) == [1]


@either_first
def test_a_half_closed_and_silent_session_is_reset_on_both_sides_in_its_own_time(pool: Pool, first: str) -> None:
    before = ended(pool.proxy, "half-closed")
    client, server = pool.link()
    started = time.monotonic()
    end_writing(*ordered(client, server, first))
    assert_reset_in_time(started, HALF_CLOSED_S, client, server)
    assert ended(pool.proxy, "half-closed") == before + 1


def test_sessions_that_time_out_together_are_told_of_together(pool: Pool) -> None:
    logged = len(pool.proxy.log)
    number = 20
    pairs = pool.links(number)
    for client, _ in pairs:
        client.shutdown(socket.SHUT_WR)
    for pair in pairs:
        for side in pair:
            wait_for_reset(side, READY_S)
    assert len(told(pool.proxy, "half-closed", HALF_CLOSED_S, logged, number)) < number / 2


def test_a_half_closed_session_lives_as_long_as_the_other_side_sends(pool: Pool) -> None:
    pairs = [ordered(*pool.link(), first) for first in ("client", "server")]
    for one, other in pairs:
        end_writing(one, other)
    for _ in range(12):
        time.sleep(SIGNS_S)
        for one, other in pairs:
            other.sendall(b"x")
            assert receive(one, 1) == b"x"
    for one, other in pairs:
        other.sendall(b"end")
        other.close()
        assert receive_all(one) == b"end"


@either_first
def test_the_time_before_a_half_close_does_not_count(pool: Pool, first: str) -> None:
    one, other = ordered(*pool.link(), first)
    time.sleep(0.8 * IDLE_S)
    end_writing(one, other)
    time.sleep(0.7 * HALF_CLOSED_S)
    other.sendall(b"the answer")
    other.close()
    assert receive_all(one) == b"the answer"


def test_a_session_lives_as_long_as_one_side_sends(pool: Pool) -> None:
    pairs = [ordered(*pool.link(), first) for first in ("client", "server")]
    started = time.monotonic()
    while time.monotonic() - started < 2 * IDLE_S:
        for one, other in pairs:
            one.sendall(b"x")
            assert receive(other, 1) == b"x"
        time.sleep(SIGNS_S)
    for one, other in pairs:
        other.sendall(b"y")
        assert receive(one, 1) == b"y"


@pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half-closed"])
def test_a_session_lives_as_long_as_one_side_reads_what_waits_for_it(pool: Pool, half_closed: bool) -> None:
    """The proxy itself has nothing to do then: there is more in the kernel's buffers than it could add to."""
    client, server = pool.link(client_buffer=SMALL_BUFFER)
    if half_closed:
        end_writing(client, server)
    sent, received = Stream(), Stream()
    flood({server: sent})
    started = time.monotonic()
    while time.monotonic() - started < 2 * IDLE_S:
        received.check(receive_now(client, SMALL_BUFFER))
        time.sleep(SIGNS_S)
    server.close()
    assert check_rest(client, received) == sent.size


def test_a_session_whose_reader_has_stopped_is_idle(pool: Pool) -> None:
    client, server = pool.link(client_buffer=SMALL_BUFFER)
    send_until_blocked(server)
    wait_for_reset(server, TOLERANCE * IDLE_S + BUSY_S)
    wait_for_reset(client, PROMPT_S)


def test_idle_clients_of_every_kind_of_listener_are_let_go(pool: Pool, certificate: Certificate) -> None:
    before = ended(pool.proxy, "idle")
    listener = pool.listen()
    started = time.monotonic()
    clients = {
        kind: pool.keep(dial(address, certificate))
        for address, (kind, dial) in zip(pool.proxy.listeners, DIALS.items(), strict=True)
    }
    assert_reset_in_time(started, IDLE_S, *(listener.accept() for _ in clients))
    for kind, client in clients.items():
        with suppress(ConnectionResetError, ssl.SSLEOFError):  # a UNIX socket cannot pass on a reset
            assert (kind, client.recv(1)) == ("UNIX", b""), "it looks like a clean end"
    assert ended(pool.proxy, "idle") == before + len(clients)


def test_without_timeouts_silent_sessions_stay(variant: Variant, start: Starter) -> None:
    pool = start.pool(*variant.options, "--idle-timeout", "0", "--half-close-timeout", "0")
    idle, half_closed = pool.link(), pool.link()
    end_writing(*half_closed)
    time.sleep(1)  # no timeout fires in it, of however short a default
    idle[0].sendall(b"x")
    assert receive(idle[1], 1) == b"x"
    half_closed[1].sendall(b"x")
    assert receive(half_closed[0], 1) == b"x"
