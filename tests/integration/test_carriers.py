"""What every carrier owes to clients and back-ends, over real sockets: one suite, run for each carrier and reactor."""

from __future__ import annotations

import signal
import socket
import time
from collections import Counter
from statistics import median
from typing import Final

import pytest

from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.servers import echo
from tests.integration.sockets import (
    MB,
    SMALL_BUFFER,
    digest,
    ordered,
    payload,
    receive,
    receive_all,
    receive_now,
    receive_until_reset,
    send_until_blocked,
)
from tests.integration.stopwatch import Stopwatch

STOP_S: Final = 2.0


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")


def answer_to(client: socket.socket, request: bytes) -> bytes:
    client.sendall(request)
    client.shutdown(socket.SHUT_WR)
    return receive_all(client)


def test_an_answer_of_50_mb_arrives_after_the_client_has_half_closed(pool: Pool) -> None:
    client, server = pool.link()
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    assert receive_all(server) == b"request"
    body = payload(50 * MB)
    sending = in_background(send_and_close, server, body)
    assert digest(receive_all(client)) == digest(body)
    sending.result()


def send_and_close(sock: socket.socket, data: bytes) -> None:
    with sock:
        sock.sendall(data)


def test_an_upload_goes_on_after_the_server_has_half_closed(pool: Pool) -> None:
    client, server = pool.link()
    server.sendall(b"send me more")
    server.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b"send me more"
    body = payload(10 * MB)
    sending = in_background(send_and_close, client, body)
    assert digest(receive_all(server)) == digest(body)
    sending.result()


@pytest.mark.parametrize("first", ["client", "server"])
def test_descriptors_are_free_as_soon_as_both_sides_have_closed(pool: Pool, first: str) -> None:
    """All but what the first session ever has made the carrier open for good."""
    close_both(pool, first)
    before = pool.proxy.descriptors()
    for _ in range(20):
        close_both(pool, first)
    poll(lambda: pool.proxy.descriptors() <= before, PROMPT_S, "no descriptor is left")


def close_both(pool: Pool, first: str) -> None:
    one, other = ordered(*pool.link(), first)
    one.close()
    assert receive_all(other) == b""
    other.close()
    pool.settled(within_s=PROMPT_S)


def test_clients_that_never_read_cost_little_memory_and_no_other_clients_time(pool: Pool) -> None:
    sent: Counter[socket.socket] = Counter()
    block = payload(1 << 16)

    def serve(connection: socket.socket) -> None:
        if receive(connection, 1) == b"h":
            greet(connection)
            return
        while sent[connection] < 16 * MB:
            sent[connection] += connection.send(block)

    def blocked() -> bool:
        before = sent.total()
        time.sleep(0.3)
        return sent.total() == before > 0

    pool.serve(serve)
    assert answer_to(pool.connect(), b"h") == b"hello"
    before = pool.proxy.resident()
    number = 50  # a hundred would take the kernel to its limit of memory for TCP, where it drops others' packets, too
    for _ in range(number):
        pool.connect(receive_buffer=SMALL_BUFFER).sendall(b"f")
    poll(blocked, 15, "the server is blocked")
    assert pool.proxy.resident() - before <= number * 256 * 1024
    took_s = []
    for _ in range(10):
        watch = Stopwatch()
        assert answer_to(pool.connect(), b"h") == b"hello"
        took_s.append(watch.own_s)
    assert median(took_s) < PROMPT_S / 4
    assert max(took_s) < PROMPT_S


def test_a_slow_reader_gets_everything_before_the_end_when_the_server_closes(pool: Pool) -> None:
    client, server = pool.link(client_buffer=SMALL_BUFFER)
    body = payload(8 * MB)
    sending = in_background(send_and_close, server, body)
    received = b""
    while not sending.done():
        time.sleep(0.001)
        received += receive_now(client, SMALL_BUFFER)
    assert len(received) < len(body)
    time.sleep(0.2)
    assert digest(received + receive_all(client)) == digest(body)


def test_a_server_may_speak_first(pool: Pool) -> None:
    client, server = pool.link()
    server.sendall(b"220 ready\r\n")
    assert receive(client, 11) == b"220 ready\r\n"
    client.sendall(b"QUIT\r\n")
    assert receive(server, 6) == b"QUIT\r\n"


@pytest.mark.alone
def test_a_server_that_speaks_first_is_heard_at_once(pool: Pool) -> None:
    """The handshake with it is not held up for a client's byte that does not come."""
    pool.serve(greet)
    took_s = []
    for _ in range(9):
        started = time.monotonic()
        assert receive_all(pool.connect()) == b"hello"
        took_s.append(time.monotonic() - started)
    assert median(took_s) < 0.03


@pytest.mark.parametrize("sender", ["client", "server"])
def test_an_urgent_byte_is_delivered_in_the_stream(pool: Pool, sender: str) -> None:
    one, other = ordered(*pool.link(), sender)
    one.sendall(b"before")
    one.send(b"!", socket.MSG_OOB)
    one.sendall(b"after")
    one.shutdown(socket.SHUT_WR)
    assert receive_all(other) == b"before!after"


def test_single_bytes_are_not_held_back(pool: Pool) -> None:
    """Two small writes and then a read: with Nagle's algorithm on either leg each round waits for a delayed ACK."""
    client, server = pool.link()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    rounds = 200
    answering = in_background(answer_in_single_bytes, server, rounds)
    watch = Stopwatch()
    for _ in range(rounds):
        send_two_bytes(client)
        assert receive(client, 2) == b"ab"
    assert watch.own_s / rounds < 0.01
    answering.result()


def send_two_bytes(sock: socket.socket) -> None:
    sock.sendall(b"a")
    time.sleep(0.001)
    sock.sendall(b"b")


def answer_in_single_bytes(sock: socket.socket, rounds: int) -> None:
    for _ in range(rounds):
        assert receive(sock, 2) == b"ab"
        send_two_bytes(sock)


def test_64_mb_go_both_ways_at_once(pool: Pool) -> None:
    client, server = pool.link()
    up, down = payload(64 * MB), payload(64 * MB)[::-1]
    arrived = in_background(receive, server, len(up))
    answering = in_background(server.sendall, down)
    sending = in_background(client.sendall, up)
    assert digest(receive(client, len(down))) == digest(down)
    assert digest(arrived.result()) == digest(up)
    answering.result()
    sending.result()


def test_500_clients_at_once_get_an_answer_each_and_are_counted(pool: Pool) -> None:
    servers = [pool.serve(echo) for _ in range(3)]
    before = pool.proxy.sessions().get("closed", 0)
    clients = [pool.connect() for _ in range(500)]
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number)
    poll(lambda: sum(pool.proxy.backends()[server.address]["total"] for server in servers) == 500, 5, "500 in total")
    assert pool.proxy.connections() == 500
    for number, client in enumerate(clients):
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"%d" % number
    pool.settled(within_s=PROMPT_S)
    assert pool.proxy.sessions()["closed"] == before + 500
    assert sum(row["total"] for row in pool.proxy.backends().values()) == 500


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_proxy_in_time_whatever_its_sessions_do(own_pool: Pool, signum: signal.Signals) -> None:
    client, server = own_pool.link()
    server.sendall(b"half")
    open_sessions_of_every_kind(own_pool)
    watch = Stopwatch()
    assert own_pool.proxy.stop(signum) == -signum
    assert watch.own_s < STOP_S
    assert receive_until_reset(client) == b"half", "half must not look like the whole"
    assert failures(own_pool.proxy.log) == []
    assert own_pool.proxy.errors == ""


def open_sessions_of_every_kind(pool: Pool) -> None:
    for _ in range(3):
        pool.link()
    _, server = pool.link()
    send_until_blocked(server)
    client, _ = pool.link()
    send_until_blocked(client)
    client, server = pool.link()
    client.shutdown(socket.SHUT_WR)
    assert receive_all(server) == b""
    client, server = pool.link()
    server.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b""


def test_a_session_that_ends_soon_after_sigterm_ends_well(own_pool: Pool) -> None:
    client, server = own_pool.link()
    watch = Stopwatch()
    own_pool.proxy.send_signal(signal.SIGTERM)
    poll(lambda: "Port" in own_pool.proxy.log and "Closed" in own_pool.proxy.log, PROMPT_S, "it listens no more")
    with pytest.raises(ConnectionRefusedError):
        own_pool.connect()
    body = payload(2 * MB)
    sending = in_background(send_and_close, server, body)
    assert digest(receive_all(client)) == digest(body)
    sending.result()
    client.close()
    assert own_pool.proxy.wait() == -signal.SIGTERM
    assert watch.own_s < 1.0
    assert failures(own_pool.proxy.log) == []
