"""Every carrier passes a reset on: at once, and after what was sent before it."""

from __future__ import annotations

import time

import pytest

from tests.integration.polling import PROMPT_S, in_background, poll, result
from tests.integration.pools import Pool
from tests.integration.sockets import (
    MB,
    SMALL_BUFFER,
    digest,
    ordered,
    payload,
    receive_now,
    receive_until_reset,
    reset,
    send_until_blocked,
    unsent,
    wait_for_reset,
)


@pytest.mark.parametrize("size", [0, 10, 10_000])
def test_a_reset_by_the_server_follows_what_it_has_sent_before(pool: Pool, size: int) -> None:
    client, server = pool.link()
    server.sendall(payload(size))
    poll(lambda: not unsent(server), PROMPT_S, "the proxy has it")
    reset(server)
    assert digest(receive_until_reset(client)) == digest(payload(size))


@pytest.mark.parametrize("resetting", ["client", "server"])
def test_a_reset_is_passed_on_at_whatever_moment_it_arrives(pool: Pool, resetting: str) -> None:
    """Also while the proxy, just done with a byte, asks for events: epoll may tell it of an error and of no end yet."""
    for number, pair in enumerate(pool.links(800)):
        one, other = ordered(*pair, resetting)
        one.sendall(b"x")
        reset_at = time.perf_counter() + number % 100 * 1e-6
        while time.perf_counter() < reset_at:
            pass
        reset(one)
        assert receive_until_reset(other) == b"x"


def test_a_reset_by_the_server_follows_the_megabytes_that_a_slow_reader_has_yet_to_get(pool: Pool) -> None:
    client, server = pool.link(client_buffer=SMALL_BUFFER)
    body = payload(5 * MB)
    sending = in_background(server.sendall, body)
    received = b""
    while not sending.done() or unsent(server):
        time.sleep(0.001)
        received += receive_now(client, SMALL_BUFFER)
    assert len(received) < len(body), "all of it has gone through"
    reset(server)
    assert digest(received + receive_until_reset(client)) == digest(body)


def test_a_reset_by_a_server_that_reads_nothing_ends_the_upload(pool: Pool) -> None:
    client, server = pool.link()
    send_until_blocked(client)
    reset(server)
    wait_for_reset(client, PROMPT_S)


def test_a_reset_by_the_client_in_the_middle_of_an_upload_reaches_the_server(pool: Pool) -> None:
    client, server = pool.link()
    reading = in_background(receive_until_reset, server)
    client.sendall(payload(1 * MB))
    reset(client)
    assert payload(1 * MB).startswith(result(reading, PROMPT_S, "the server is reset"))


def test_a_reset_by_the_client_reaches_a_server_that_reads_nothing(pool: Pool) -> None:
    """Nothing is read from the client any more then, so its reset is not seen by reading."""
    client, server = pool.link()
    send_until_blocked(client)
    reset(client)
    wait_for_reset(server, PROMPT_S)


def test_a_reset_by_a_client_that_reads_nothing_ends_the_download(pool: Pool) -> None:
    client, server = pool.link()
    send_until_blocked(server)
    reset(client)
    wait_for_reset(server, PROMPT_S)
