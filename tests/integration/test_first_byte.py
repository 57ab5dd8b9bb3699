"""A service that hangs behind a live kernel and a live agent: with --first-byte it goes down, where others answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.integration.conftest import CARRIERS, Starter, carrier_options
from tests.integration.polling import PROMPT_S, READY_S, poll
from tests.integration.pools import Pool
from tests.integration.sockets import connect, receive, receive_all

LIMIT_S: Final = 0.6
SEVERAL: Final = 10


class Hanging:
    """A service that answers, or greets, unless it `hangs`."""

    def __init__(self, *, greets: bool = False) -> None:
        self.hangs = threading.Event()
        self.answered = 0
        self._greets = greets

    def __call__(self, connection: socket.socket) -> None:
        if not self._greets:
            receive(connection, 1)
        if self.hangs.is_set():
            receive_all(connection)
            return
        connection.sendall(b"!")
        self.answered += 1


@contextmanager
def visits(pool: Pool, request: bytes) -> Iterator[None]:
    """Clients that come all the time, and do not wait for long."""
    over = threading.Event()

    def visit() -> None:
        while not over.is_set():
            with connect(pool.proxy.address) as client:
                client.settimeout(LIMIT_S / 2)
                try:
                    client.sendall(request)
                    client.recv(1)
                except OSError:
                    pass
            time.sleep(0.02)

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    try:
        yield
    finally:
        over.set()
        for visitor in visitors:
            visitor.join()


def pool_of(start: Starter, carrier: str, *options: str) -> Pool:
    pool = Pool(start.proxy(*carrier_options(carrier), "--policy", "round-robin", *options))
    start.closing(pool.abandon)
    return pool


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("greets", [False, True], ids=["asked", "speaks first"])
def test_a_service_that_hangs_while_another_answers_goes_down(start: Starter, carrier: str, greets: bool) -> None:
    pool = pool_of(start, carrier, "--first-byte", f"{LIMIT_S}")
    one, other = Hanging(greets=greets), Hanging(greets=greets)
    hanging, answering = pool.serve(one), pool.serve(other)
    with visits(pool, b"" if greets else b"?"):
        poll(lambda: min(one.answered, other.answered) >= SEVERAL, READY_S, "both answer")
        one.hangs.set()
        poll(lambda: pool.proxy.state(hanging.address) == "down", READY_S, "it is down")
        assert pool.proxy.state(answering.address) == "up"
        other.hangs.set()  # the last one is not taken down, whatever it does
        time.sleep(2 * LIMIT_S)  # it would go down within the half of this
        assert pool.proxy.state(answering.address) == "up"
    assert "new sessions got no byte for" in pool.proxy.log


@pytest.mark.parametrize("carrier", CARRIERS)
def test_none_goes_down_where_nobody_is_asked_or_nobody_answers_or_it_is_off(start: Starter, carrier: str) -> None:
    """Idle pre-opened connections; slow services; and the default."""
    limit = ("--first-byte", f"{LIMIT_S}")
    cases = [(limit, b"", False), (limit, b"?", True), ((), b"?", False)]
    pools = []
    for options, word, all_hang in cases:
        pool = pool_of(start.elsewhere(), carrier, *options)
        first, second = Hanging(), Hanging()
        first.hangs.set()
        if all_hang:
            second.hangs.set()
        servers = [pool.serve(first), pool.serve(second)]
        pools.append((pool, servers))
        for _ in range(10):
            client = pool.connect()
            client.sendall(word)
    deadline = time.monotonic() + 3 * LIMIT_S
    while time.monotonic() < deadline:
        for pool, _ in pools[::2]:  # somebody is answered meanwhile
            client = pool.connect()
            client.sendall(b"?")
            time.sleep(0.02)
    for pool, servers in pools[1:]:
        assert [pool.proxy.state(server.address) for server in servers] == ["up", "up"]
    silent, _ = pools[0]
    poll(lambda: "got no byte" in silent.proxy.log, PROMPT_S, "those that asked were counted, at least")
