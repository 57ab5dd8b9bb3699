"""Clients that come while no back-end is up: they wait, are served in their order, and leave when they like."""

from __future__ import annotations

import re
import signal
import socket
import time
from typing import Final

import pytest

from tests.integration.conftest import Starter, Variant, every_transport
from tests.integration.fake_agents import FakeAgent
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, READY_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import Server, echo
from tests.integration.sockets import digest, is_readable, payload, receive, receive_all, receive_until_reset, reset
from tests.integration.stopwatch import Stopwatch

SHORT_S: Final = 1.0
LATE_S: Final = 0.3
"""How much later than it is due something may be seen."""

pytestmark = every_transport


def waiting_pool(start: Starter, variant: Variant, *options: str) -> Pool:
    pool = Pool(start.proxy(*variant.options, *options, reactor=variant.reactor))
    start.closing(pool.abandon)
    return pool


def now(proxy: Proxy) -> int:
    sessions: int = proxy.status()["connections"]["now"]
    return sessions


def in_place(pool: Pool, clients: int) -> None:
    poll(lambda: now(pool.proxy) == clients, PROMPT_S, f"{clients} are there")


def test_clients_wait_for_the_first_back_end_and_are_served_when_it_comes(variant: Variant, start: Starter) -> None:
    """Their data and ends of stream arrive; silent ones are served, too."""
    pool = waiting_pool(start, variant)
    silent = pool.connect()
    sending = pool.connect()
    sending.sendall(b"question")
    ended = pool.connect()
    ended.sendall(b"all that there is")
    ended.shutdown(socket.SHUT_WR)
    large = pool.connect()
    body = payload(3_000_000)
    uploading = in_background(large.sendall, body)
    in_place(pool, 4)
    time.sleep(SHORT_S)  # nobody is turned away or answered in it
    assert not any(is_readable(client) for client in (silent, sending, ended, large))
    pool.serve(echo)
    assert receive(sending, 8) == b"question"
    assert receive_all(ended) == b"all that there is"
    assert digest(receive(large, len(body))) == digest(body)
    uploading.result()
    silent.sendall(b"now")
    assert receive(silent, 3) == b"now"
    assert "turned away" not in pool.proxy.log


def test_who_has_waited_long_enough_is_let_go_and_the_log_tells_the_sum(variant: Variant, start: Starter) -> None:
    pool = waiting_pool(start, variant, "--wait-for-backend", f"{SHORT_S}")
    watch = Stopwatch()
    clients = [pool.connect() for _ in range(30)]
    for client in clients:
        assert receive_all(client) == b""
    assert watch.wall_s >= SHORT_S - 0.05
    assert watch.own_s < SHORT_S + LATE_S
    in_place(pool, 0)
    assert pool.proxy.sessions()["no-backend"] == 30
    pool.proxy.stop()
    told = re.findall(r"(\d+) client\(s\) turned away", pool.proxy.log)
    assert (told[0], told[-1]) == ("1", "30")


def test_a_client_that_leaves_leaves_its_place(variant: Variant, start: Starter) -> None:
    """By a reset, with and without data before it, and by closing without data."""
    pool = waiting_pool(start, variant)
    for leave in ("reset", "reset after data", "close"):
        client = pool.connect()
        if leave == "reset after data":
            client.sendall(b"never mind")
        in_place(pool, 1)
        if leave == "close":
            client.close()
        else:
            reset(client)
        in_place(pool, 0)
    assert pool.proxy.sessions() == {"client-gone": 3}
    got: list[bytes] = []
    pool.serve(lambda connection: got.append(receive_all(connection)))
    assert got == []


def test_the_waiting_take_room_and_the_first_to_come_is_the_first_to_be_served(
    variant: Variant, start: Starter
) -> None:
    pool = waiting_pool(start, variant, "--max-connections", "100")
    clients = []
    for number in range(120):
        client = pool.connect()
        client.sendall(b"%03d" % number)
        clients.append(client)
    in_place(pool, 100)
    order: list[bytes] = []

    def note(connection: socket.socket) -> None:
        order.append(receive(connection, 3))
        connection.sendall(b"!")

    pool.serve(note)
    for client in clients:
        assert receive_all(client) == b"!"
        client.close()
    assert len(order) == 120
    places = {int(number): place for place, number in enumerate(order)}
    assert all(abs(places[number] - number) < 40 for number in places), "the threads of the test may swap a few"


def test_a_thousand_are_served_fast_and_spread_over_all_that_come(variant: Variant, start: Starter) -> None:
    """Three back-ends come within a moment of each other."""
    pool = waiting_pool(start, variant)
    clients = [pool.connect() for _ in range(1200)]
    in_place(pool, 1200)
    servers = [Server(lambda connection: connection.sendall(b"!")) for _ in range(3)]
    agents = [FakeAgent(pool.proxy.monitor, server.address[1]) for server in servers]
    watch = Stopwatch()
    for client in clients:
        assert receive(client, 1) == b"!"
    assert watch.own_s < 3.0
    totals = [pool.proxy.backends()[server.address]["total"] for server in servers]
    assert sum(totals) == 1200
    assert min(totals) >= 100, totals
    for agent in agents:
        agent.close(unregister=False)
    for server in servers:
        server.close()


def test_a_stop_does_not_wait_for_the_waiting(variant: Variant, start: Starter) -> None:
    pool = waiting_pool(start, variant)
    clients = [pool.connect() for _ in range(5)]
    in_place(pool, 5)
    watch = Stopwatch()
    assert pool.proxy.stop() == -signal.SIGTERM
    assert watch.own_s < PROMPT_S
    for client in clients:
        assert receive_all(client) == b""
    assert failures(pool.proxy.log) == []
    assert "5 client(s) turned away" in pool.proxy.log


def test_the_wait_ends_where_a_back_end_asks_for_clients_again(variant: Variant, start: Starter) -> None:
    """No state changes by that, and those whose only back-end was taken down by refusing wait as well."""
    pool = waiting_pool(start, variant)
    server = pool.serve(echo)
    agent = pool.agent_of(server.address)
    agent.drain()
    poll(lambda: pool.proxy.state(server.address) == "draining", READY_S, "it drains")
    client = pool.connect()
    client.sendall(b"hello")
    in_place(pool, 1)
    assert not is_readable(client)
    agent.drain(False)
    assert receive(client, 5) == b"hello"


def test_a_proxy_of_which_nobody_is_to_wait_turns_away_at_once(variant: Variant, start: Starter) -> None:
    pool = waiting_pool(start, variant, "--wait-for-backend", "0")
    watch = Stopwatch()
    assert receive_all(pool.connect()) == b""
    assert watch.own_s < LATE_S


def test_to_a_client_whose_bytes_are_lost_no_end_is_a_clean_one(variant: Variant, start: Starter) -> None:
    pool = waiting_pool(start, variant, "--wait-for-backend", "0.5")
    client = pool.connect()
    client.sendall(b"upload")
    client.shutdown(socket.SHUT_WR)
    assert receive_until_reset(client) == b""


@pytest.mark.parametrize("after", [0, 5, 70_000])
def test_a_client_that_resets_while_its_back_end_is_connected_resets_there(
    variant: Variant, start: Starter, after: int
) -> None:
    """After the data that it sent before. A back-end sees that as it would without a proxy between."""
    pool = waiting_pool(start, variant)
    listener = pool.listen()
    body = payload(after)
    for _ in range(40):
        client = pool.connect()
        client.sendall(body)
        reset(client)
    seen: list[bytes] = []
    while True:
        pool.settled(within_s=2.0)
        listener._socket.settimeout(0.3)
        try:
            server = listener.accept()
        except TimeoutError:
            break
        seen.append(receive_until_reset(server))
    assert all(body.startswith(data) for data in seen)
    if after == 5:
        assert seen.count(body) == len(seen) > 0
