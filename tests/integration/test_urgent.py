"""Urgent bytes, however many and wherever they are: each stays where it was sent, and none is lost."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.integration.conftest import every_carrier
from tests.integration.polling import in_background
from tests.integration.pools import Pool
from tests.integration.sockets import receive_all
from tests.integration.streams import CHUNK, Stream

pytestmark = every_carrier

both_ways = pytest.mark.parametrize("way", ["down", "up"])
MESSAGES: Final = [
    ["A"],
    ["A", "B"],
    ["A", "B", "C"],
    ["A", "B", "plain"],
    ["A", "B", "C", "plain"],
    ["plain", "A", "B"],
    ["A", "plain", "B", "plain"],
    ["one", "A", "two", "B", "three", "C", "four"],
    ["oneA", "twoB", "threeC"],
    ["A", "twoB", "C"],
    ["A", "A", "A", "A", "A"],
]
"""What is sent in turn, each with a call of its own; of one that ends with a capital letter that is urgent."""


def send(sock: socket.socket, messages: list[str]) -> bytes:
    """Send them; what is to arrive."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for message in messages:
        sock.send(message.encode(), socket.MSG_OOB if message[-1].isupper() else 0)
    return "".join(messages).encode()


@contextmanager
def stopped(pool: Pool) -> Iterator[None]:
    """All that is done here comes to the proxy at once, before its first read."""
    pool.proxy.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        pool.proxy.send_signal(signal.SIGCONT)


@both_ways
@pytest.mark.parametrize("ended", [False, True], ids=["open", "ended"])
def test_before_the_first_read(pool: Pool, way: str, ended: bool) -> None:
    pairs = [pool.link() for _ in MESSAGES]
    sent: dict[socket.socket, bytes] = {}
    with stopped(pool):
        for messages, (client, server) in zip(MESSAGES, pairs, strict=True):
            writer, reader = (server, client) if way == "down" else (client, server)
            sent[reader] = send(writer, messages)
            if ended:
                writer.shutdown(socket.SHUT_WR)
    for client, server in pairs:
        (server if way == "down" else client).shutdown(socket.SHUT_WR)
    assert {reader: receive_all(reader) for reader in sent} == sent


def test_before_a_client_has_its_back_end(pool: Pool) -> None:
    """They are there when the connection is accepted."""
    listener = pool.listen()
    sent = []
    with stopped(pool):
        for messages in MESSAGES:
            client = pool.connect()
            sent.append(send(client, messages))
            client.shutdown(socket.SHUT_WR)
    assert sorted(receive_all(listener.accept()) for _ in sent) == sorted(sent)


@both_ways
def test_in_the_middle_of_a_transfer(pool: Pool, way: str) -> None:
    """Where the kernel moves the bytes, each mark stops it short."""
    client, server = pool.link()
    writer, reader = (server, client) if way == "down" else (client, server)
    sending = in_background(send_marked, writer, 3)
    expected = Stream()
    stream = receive_all(reader)
    for marks in (3, 2, 1):
        size = 12 * CHUNK
        assert stream[:size] == b"".join(expected.take(CHUNK) for _ in range(12))
        assert stream[size : size + marks] == b"!" * marks
        stream = stream[size + marks :]
    assert stream == b""
    sending.result()


def send_marked(sock: socket.socket, marks: int) -> None:
    """A stream with so many urgent bytes after each few MB, one less each time, and its end right after the last."""
    stream = Stream()
    for number in range(marks, 0, -1):
        for _ in range(12):
            sock.sendall(stream.take(CHUNK))
        for _ in range(number):
            sock.send(b"!", socket.MSG_OOB)
    sock.shutdown(socket.SHUT_WR)
