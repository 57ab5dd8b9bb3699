"""Much of everything: bytes, bytes one by one, sessions, clients that never read; and a back-end that dies of it."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
import pytest

from rproxy.carriers.splice.pipes import KEPT
from tests.integration import churn
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.fake_agents import BUSY
from tests.integration.polling import PROMPT_S, READY_S, STOP_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import MB, SMALL_BUFFER, receive, unread
from tests.integration.stopwatch import Stopwatch
from tests.integration.streams import Stream, check_stream, flood, send_paced, send_single_bytes, send_stream
from tests.integration.test_carriers import answer_to
from tests.integration.twistd import PROJECT, RESTING, environment

pytestmark = [every_carrier, pytest.mark.alone]  # they take all of both cores

TRICKLE: Final = 24 * MB
"""Bytes a second, each way."""
TRICKLE_S: Final = 3.0
SESSION_MEMORY: Final = 256 * 1024
"""Bytes that a client may cost which never reads."""
PATIENCE_S: Final = 60.0
"""A hang is a failure, not the end of the run."""
ROUNDS: Final = 10


def both_ways(pool: Pool, send: Callable[..., int], *what: Any) -> None:
    """`send` from both sides of a session at once: everything arrives, and is right. The last argument is the start."""
    sides = pool.link()
    arriving = [in_background(check_stream, side, start) for start, side in enumerate(sides)]
    sending = [in_background(send, side, *what, start) for start, side in enumerate(reversed(sides))]
    assert [one.result(PATIENCE_S) for one in arriving] == [one.result(PATIENCE_S) for one in sending]


def test_a_steady_flow_both_ways_is_kept_up_with(pool: Pool) -> None:
    watch = Stopwatch()
    both_ways(pool, send_paced, TRICKLE, TRICKLE_S)
    assert watch.own_s < TRICKLE_S + PROMPT_S


def test_many_single_bytes_go_both_ways(pool: Pool) -> None:
    both_ways(pool, send_single_bytes, 20_000)


def test_a_gigabyte_goes_each_way_at_once(pool: Pool) -> None:
    both_ways(pool, send_stream, 1000 * MB)


def test_a_thousand_clients_that_never_read_cost_little_memory_and_no_other_clients_time(pool: Pool) -> None:
    number = 1000
    before = pool.proxy.resident()
    pairs = pool.links(number, BUSY)
    for client, server in pairs:  # so that the kernel's share is small, too
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
    flood({server: Stream() for _, server in pairs}, quiet_s=1.0)
    assert pool.proxy.resident() - before <= number * SESSION_MEMORY
    assert pool.proxy.share_of_a_core() < RESTING
    pool.serve(echo)
    for _ in range(10):
        watch = Stopwatch()
        assert answer_to(pool.connect(), b"hello") == b"hello"
        assert watch.own_s < PROMPT_S / 4


@attrs.frozen
class Backends:
    """A process that serves `churn`'s visits on some ports."""

    process: subprocess.Popen[str]
    ports: tuple[int, ...]

    def register(self, pool: Pool) -> None:
        for port in self.ports:
            pool.register((LOOPBACK, port))


def run_churn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", churn.__name__, *arguments],
        cwd=PROJECT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def backends() -> Iterator[Backends]:
    process = run_churn("serve", "4")
    try:
        assert process.stdout is not None
        yield Backends(process, tuple(int(port) for port in process.stdout.readline().split()))
    finally:
        process.kill()
        process.wait(STOP_S)


@attrs.frozen
class Churn:
    """How many sessions a carrier is put to, and what they may leave."""

    sessions: int
    """In each round."""
    residue: int
    """Bytes of memory for each, on average: less than any object of a session."""


CHURNS: Final = {
    "splice": Churn(10_000, 64),
    "portable": Churn(2_000, 1_000),  # Twisted's transports are circles, which the garbage collector lets pile up
}


def visit(pool: Pool, sessions: int) -> None:
    """A round of sessions of all kinds, some hundreds at once; afterwards all is over."""
    before = sum(pool.proxy.sessions().values())
    host, port = pool.proxy.address
    with run_churn("visit", host, f"{port}", f"{sessions}", "300") as visiting:
        try:
            assert visiting.wait(PATIENCE_S) == 0
        finally:
            visiting.kill()
    pool.settled(within_s=PROMPT_S)
    assert sum(pool.proxy.sessions().values()) == before + sessions


def kept(proxy: Proxy) -> int:
    """Descriptors for good, and perhaps one of a question just answered."""
    return proxy.descriptors() - proxy.descriptors("pipe")


def test_thousands_of_sessions_leave_nothing_behind(variant: Variant, start: Starter, backends: Backends) -> None:
    """Of seven kinds: each side closes, half-closes or resets; a long answer; a client that is gone at once."""
    churn = CHURNS[variant.carrier]
    pool = start.pool(*variant.options)
    backends.register(pool)
    pipes = pool.proxy.descriptors("pipe")
    visit(pool, churn.sessions)
    before, descriptors = pool.proxy.resident(), min(kept(pool.proxy) for _ in range(10))
    for _ in range(ROUNDS):
        visit(pool, churn.sessions)
    poll(lambda: kept(pool.proxy) <= descriptors, PROMPT_S, "no descriptor is left")
    assert pool.proxy.descriptors("pipe") - pipes <= 2 * KEPT
    assert pool.proxy.resident() - before <= ROUNDS * churn.sessions * churn.residue


def ended(sockets: Sequence[socket.socket], within_s: float) -> int:
    """How many have come to their end, or reset, in time."""
    poller = select.poll()
    left = {sock.fileno(): sock for sock in sockets}
    for descriptor in left:
        poller.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + within_s
    while left and (events := poller.poll(max(deadline - time.monotonic(), 0) * 1000)):
        for descriptor, _ in events:
            with suppress(ConnectionResetError):
                assert left[descriptor].recv(1) == b""
            poller.unregister(descriptor)
            del left[descriptor]
    return len(sockets) - len(left)


def test_a_back_end_killed_with_500_sessions_ends_them_all_at_once(pool: Pool, backends: Backends) -> None:
    """It dies before it has read what half of the clients have sent: they are reset."""
    backends.register(pool)
    clients = [pool.connect() for _ in range(500)]
    for client in clients:
        client.sendall(churn.KEEP)
    for client in clients:
        assert receive(client, len(churn.ANSWER)) == churn.ANSWER
    before = pool.proxy.sessions().get("backend-reset", 0)
    backends.process.send_signal(signal.SIGSTOP)
    for client in clients[::2]:
        client.sendall(b"unread")
    poll(lambda: unread(*backends.ports) == 6 * len(clients) / 2, READY_S, "it has arrived there")
    backends.process.kill()
    assert ended(clients, PROMPT_S) == len(clients)
    for client in clients:
        client.close()
    pool.settled(within_s=PROMPT_S)
    assert pool.proxy.sessions()["backend-reset"] == before + len(clients) / 2
