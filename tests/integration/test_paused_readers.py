"""Readers that pause after the other side has closed: they get everything, within the idle timeout; and keepalive."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from rproxy.net.tcp_options import KEEPALIVE_S
from tests.conftest import need
from tests.integration.conftest import Certificate, Variant, every_carrier, every_listener
from tests.integration.dials import DIALS
from tests.integration.polling import PROMPT_S, READY_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.sockets import (
    MB,
    SMALL_BUFFER,
    receive_all,
    receive_until_reset,
    reset,
    unread,
    unsent,
    wait_for_reset,
)
from tests.integration.streams import Stream, check_rest, flood, send_some

pytestmark = every_carrier

HALF_CLOSED_S: Final = 0.4
IDLE_S: Final = 4.0
PAUSE_S: Final = 3 * HALF_CLOSED_S
BUSY_S: Final = 1.0


@pytest.fixture(scope="module")
def impatient_proxy(
    variant: Variant, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("impatient")
    timeouts = ["--idle-timeout", f"{IDLE_S:g}", "--half-close-timeout", f"{HALF_CLOSED_S:g}"]
    with Proxy(folder, *every_listener(folder, certificate), *variant.tls_options, *timeouts) as proxy:
        yield proxy


@pytest.fixture
def pool(impatient_proxy: Proxy) -> Iterator[Pool]:
    pool = Pool(impatient_proxy)
    yield pool
    pool.close()


def close(_: socket.socket, server: socket.socket) -> None:
    server.close()


def half_close(_: socket.socket, server: socket.socket) -> None:
    server.shutdown(socket.SHUT_WR)


def close_after_the_client(client: socket.socket, server: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    assert receive_all(server) == b""
    server.close()


def rest(reader: socket.socket) -> int:
    """Read the rest at full speed; returns its size."""
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MB)
    return check_rest(reader, Stream())


@pytest.mark.parametrize("end", [close, half_close, close_after_the_client])
def test_a_client_that_pauses_after_the_server_has_ended_gets_everything(
    pool: Pool, end: Callable[[socket.socket, socket.socket], None]
) -> None:
    """Whether the kernel holds all of it for the client, and the end behind it, or the proxy a part."""
    most, all_held = [pool.link(client_buffer=SMALL_BUFFER) for _ in range(2)]
    sent = {client: Stream() for client, _ in (most, all_held)}
    flood({most[1]: sent[most[0]]})
    send_some(all_held[1], sent[all_held[0]], MB)
    for pair in (most, all_held):
        end(*pair)
    time.sleep(PAUSE_S)
    reading = {client: in_background(rest, client) for client in sent}
    assert {client: read.result() for client, read in reading.items()} == {
        client: stream.size for client, stream in sent.items()
    }


@pytest.mark.parametrize("end", [close, close_after_the_client])
def test_a_server_that_pauses_gets_everything_too(
    pool: Pool, end: Callable[[socket.socket, socket.socket], None]
) -> None:
    client, server = pool.link()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sent = Stream()
    flood({client: sent})
    end(server, client)
    time.sleep(PAUSE_S)
    assert rest(server) == sent.size


def test_clients_of_every_kind_of_listener_may_pause(pool: Pool, certificate: Certificate) -> None:
    listener = pool.listen()
    received = {}
    for address, (kind, dial) in zip(pool.proxy.listeners, DIALS.items(), strict=True):
        client = pool.keep(dial(address, certificate))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        server = listener.accept()
        sent = Stream()
        send_some(server, sent, 300_000)
        server.close()
        received[kind] = (client, sent.size)
    time.sleep(PAUSE_S)
    reading = {kind: in_background(rest, client) for kind, (client, _) in received.items()}
    assert {kind: read.result() for kind, read in reading.items()} == {
        kind: size for kind, (_, size) in received.items()
    }


def test_a_reader_that_never_goes_on_is_let_go_after_the_idle_timeout(pool: Pool) -> None:
    before = pool.proxy.sessions().get("idle", 0)
    pairs = [pool.link(client_buffer=SMALL_BUFFER) for _ in range(2)]
    started = time.monotonic()
    flood({server: Stream() for _, server in pairs})
    (first, first_server), (second, second_server) = pairs
    half_close(first, first_server)
    close_after_the_client(second, second_server)
    for client in (first, second):
        wait_for_reset(client, 1.25 * IDLE_S + BUSY_S)
        assert time.monotonic() - started > IDLE_S
    assert pool.proxy.sessions().get("idle", 0) == before + 2
    pool.proxy.logged(rf"session\(s\) closed: (idle) and silent for {IDLE_S:g} s", PROMPT_S)


def test_a_reader_that_has_everything_and_stays_is_silent(pool: Pool) -> None:
    client, server = pool.link()
    server.sendall(b"all of it")
    server.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b"all of it"
    wait_for_reset(server, 1.25 * HALF_CLOSED_S + BUSY_S)


def test_a_reset_server_does_not_wait_for_a_client_that_pauses_longer_than_its_grace(pool: Pool) -> None:
    """What was read before the reset is flushed all the same: 30 s are more than this pause."""
    client, server = pool.link(client_buffer=SMALL_BUFFER)
    send_some(server, Stream(), 200_000)
    proxy_port = server.getpeername()[1]
    poll(lambda: not unsent(server) and not unread(proxy_port), READY_S, "the proxy has read it all")
    reset(server)
    time.sleep(PAUSE_S)
    received = receive_until_reset(client)
    Stream().check(received)
    assert len(received) == 200_000


def timers(pool: Pool) -> dict[int, list[float]]:
    """For each of the proxy's connections, the seconds until keepalive asks, by the port of the other end."""
    (ss,) = need("ss")
    output = subprocess.run(
        [ss, "-Htnop", "state", "established"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    found: dict[int, list[float]] = {}
    for line in output.splitlines():
        if f"pid={pool.proxy.pid}," in line:
            port = int(line.split()[3].rpartition(":")[2])
            found[port] = [
                _seconds(*match) for match in re.findall(r"timer:\(keepalive,(?:(\d+)min)?([\d.]+)(\w+)", line)
            ]
    return found


def _seconds(minutes: str, number: str, unit: str) -> float:
    return 60 * int(minutes or 0) + float(number) * {"sec": 1.0, "ms": 0.001, "min": 60.0}[unit]


def test_both_sides_are_asked_after_a_minute_whether_they_are_there(pool: Pool) -> None:
    client, server = pool.link()
    ports = {client.getsockname()[1], server.getsockname()[1]}
    service = server.getsockname()[1]
    found = poll(lambda: kept(timers(pool), {client.getsockname()[1], service}), PROMPT_S, f"keepalive for {ports}")
    assert all(KEEPALIVE_S - 10 <= seconds <= KEEPALIVE_S for seconds in found)


def kept(timers: dict[int, list[float]], ports: set[int]) -> list[float]:
    """The timers of these connections, when all of them have one."""
    found = [timers.get(port, []) for port in ports]
    return [seconds for each in found for seconds in each] if all(found) else []
