"""Real agents, and a continuous flow of clients."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rproxy.net.addresses import Address, written
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter
from tests.integration.polling import READY_S, in_background, poll
from tests.integration.proxies import Proxy
from tests.integration.servers import Server, echo
from tests.integration.sockets import connect, receive, receive_all
from tests.integration.twistd import Twistd


def serve(start: Starter, word: bytes, host: str = LOOPBACK, *, port: int = 0) -> Address:
    """The address of a server that sends `word`, then echoes what it receives."""

    def greet(connection: socket.socket) -> None:
        connection.sendall(word)
        echo(connection)

    server = Server(greet, host, port=port)
    start.closing(server.close)
    return server.address


def start_agent(start: Starter, proxy: Proxy, service: Address, *options: str, **how: Any) -> Twistd:
    """`twistd rproxy-agent` for a service on this host, which it checks only where `options` say so."""
    told = ["--proxy", written(proxy.monitor), "--port", "0", "--service-port", str(service[1])]
    told += [] if "--check" in options else ["--check", "none"]
    return start.elsewhere().twistd("rproxy-agent", *told, *options, **how)


def wait_until_up(proxy: Proxy, *services: Address) -> None:
    poll(lambda: all(proxy.state(service) == "up" for service in services), READY_S, f"{services} up", every_s=0.05)


def greeting(proxy: Proxy) -> bytes:
    """What a new client receives."""
    with connect(proxy.address) as client:
        client.shutdown(socket.SHUT_WR)
        return receive_all(client)


def assert_echoes(proxy: Proxy) -> None:
    with connect(proxy.address) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"


@contextmanager
def visitors(proxy: Proxy) -> Iterator[Counter[bytes]]:
    """Run clients one after another; yields the counts of their greetings. Raises what any of them raised."""
    greeted: Counter[bytes] = Counter()
    over = threading.Event()

    def visit() -> None:
        while not over.wait(0.01):
            greeted[greeting(proxy)] += 1

    visiting = in_background(visit)
    try:
        yield greeted
    finally:
        over.set()
        visiting.result()
