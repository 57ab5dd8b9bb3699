"""What every carrier owes to clients of every kind of listener."""

from __future__ import annotations

import socket
import ssl

import pytest

from tests.integration.conftest import Certificate
from tests.integration.dials import LISTENERS, Dial, dial_tls
from tests.integration.pools import Pool
from tests.integration.sockets import (
    MB,
    digest,
    payload,
    receive,
    receive_all,
    reset,
)


@pytest.mark.parametrize(("position", "dial"), LISTENERS)
def test_every_kind_of_listener_carries_both_ways_to_the_end(
    pool: Pool, certificate: Certificate, position: int, dial: Dial
) -> None:
    body = payload(3 * MB)

    def answer_reversed(connection: socket.socket) -> None:
        connection.sendall(receive(connection, len(body))[::-1])

    pool.serve(answer_reversed)
    client = pool.keep(dial(pool.proxy.listeners[position], certificate))
    client.sendall(body)
    assert digest(receive_all(client)) == digest(body[::-1])


def test_a_reset_by_the_server_is_no_clean_end_for_a_tls_client(pool: Pool, certificate: Certificate) -> None:
    """Such a client must not take a truncated answer for the whole one."""
    listener = pool.listen()
    client = pool.keep(dial_tls(pool.proxy.listeners[3], certificate))
    server = listener.accept()
    server.sendall(b"half")
    assert receive(client, 4) == b"half"
    reset(server)
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        client.recv(1)
