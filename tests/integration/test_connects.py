"""Every carrier connects to a back-end, to another one where that fails, and gives up in time."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

import pytest

from tests.integration.conftest import Starter, Variant
from tests.integration.fake_agents import BUSY
from tests.integration.polling import PROMPT_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.servers import echo
from tests.integration.sockets import (
    MB,
    digest,
    payload,
    receive,
    receive_all,
    reset,
)
from tests.integration.stopwatch import Stopwatch
from tests.integration.test_carriers import answer_to, send_and_close

CONNECT_TIMEOUT_S: Final = 2.0
CONNECT_TOTAL_S: Final = 5.0


def test_a_client_does_not_notice_that_a_back_end_refuses(pool: Pool) -> None:
    pool.refuse()
    pool.serve(echo, BUSY)
    before = pool.proxy.status()["counters"]["redispatches"]
    watch = Stopwatch()
    assert answer_to(pool.connect(), b"hello") == b"hello"
    assert watch.own_s < PROMPT_S / 4
    assert pool.proxy.status()["counters"]["redispatches"] == before + 1


def test_a_back_end_that_drops_syns_is_replaced_after_the_connect_timeout(pool: Pool) -> None:
    """And its successor gets all that the client has sent in the meantime."""
    pool.drop_syns()
    pool.serve(echo, BUSY)
    body = payload(1 * MB)
    watch = Stopwatch()
    client = pool.connect()
    sending = in_background(client.sendall, body)
    first = receive(client, 1)
    assert watch.wall_s > CONNECT_TIMEOUT_S - 0.1
    assert watch.own_s < CONNECT_TIMEOUT_S + PROMPT_S
    assert digest(first + receive(client, len(body) - 1)) == digest(body)
    sending.result()


@pytest.fixture
def impatient_pool(variant: Variant, start: Starter) -> Pool:
    """A proxy whose clients do not wait for a back-end."""
    pool = Pool(start.proxy(*variant.options, "--wait-for-backend", "0", reactor=variant.reactor))
    start.closing(pool.abandon)
    return pool


def test_when_all_back_ends_refuse_the_client_is_let_go_and_the_log_says_why_once(impatient_pool: Pool) -> None:
    impatient_pool.refuse()
    impatient_pool.refuse()
    assert_let_go_and_logged_once(impatient_pool, "no back-end could be connected to; 2 of 2 back-ends may be used")


def test_without_a_back_end_the_client_is_let_go_and_the_log_says_why_once(impatient_pool: Pool) -> None:
    assert_let_go_and_logged_once(impatient_pool, "no back-end is up; 0 of 0 back-ends may be used")


def assert_let_go_and_logged_once(pool: Pool, reason: str) -> None:
    for _ in range(10):
        watch = Stopwatch()
        assert receive_all(pool.connect()) == b""
        assert watch.own_s < PROMPT_S / 4
    (line,) = [line for line in pool.proxy.log.splitlines() if "turned away" in line]
    assert line.endswith(reason)


def test_when_all_back_ends_drop_syns_the_client_is_let_go_in_time(pool: Pool) -> None:
    for _ in range(4):
        pool.drop_syns()
    client = pool.connect()
    watch = Stopwatch()
    assert receive_all(client) == b""
    assert watch.wall_s > 2 * CONNECT_TIMEOUT_S
    assert watch.own_s < CONNECT_TOTAL_S + 0.2


@pytest.mark.parametrize("size", [10, 8 * MB])
def test_what_a_client_sends_before_its_back_end_is_connected_arrives_and_is_bounded(pool: Pool, size: int) -> None:
    """It ends its stream, too, before then."""
    listener = pool.drop_syns()
    client = pool.connect()
    body = payload(size)
    before = pool.proxy.resident()
    answering = in_background(answer_to, client, body)
    time.sleep(0.5)
    assert pool.proxy.resident() - before <= 1 * MB
    listener.hear()
    server = listener.accept()
    assert digest(receive_all(server)) == digest(body)
    send_and_close(server, b"thank you")
    assert answering.result() == b"thank you"


@pytest.mark.parametrize("early", [b"", payload(1 * MB)], ids=["silent", "has sent 1 MB"])
def test_a_reset_by_the_client_cancels_the_connect(pool: Pool, early: bytes) -> None:
    pool.drop_syns()
    client = pool.connect()
    poll(lambda: pool.proxy.connections() == 1, PROMPT_S, "the connect has begun")
    client.settimeout(0.2)
    with suppress(TimeoutError):
        client.sendall(early)
    reset(client)
    pool.settled(within_s=PROMPT_S)
