"""Clients of a status listener, and of the sessions beside it: `... KIND HOST PORT SECONDS`, each a process of its own.

KIND is one of `ATTACKS`, or `scrapes`, which prints as JSON how long it waited for each answer, or `sessions`: this one
prints, as JSON, how long a few bytes took to go through the proxy and
back, in seconds, on an established session and on new ones. It runs ahead of all other programs where it may, and the
attacks after them: what a client takes of a core that the proxy would have had is not the status listener's doing.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

from rproxy.net.addresses import Address
from tests.integration.servers import echo
from tests.integration.sockets import SMALL_BUFFER, connect, hang_up, receive

GET: Final = b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST: Final = b"POST /status.json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n\r\n"
SCRAPE: Final = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAM: Final = b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
QUERIES: Final = [
    f"{method} /api/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    for method, path in [
        ("GET", "backends"),
        ("GET", "backends?state=down"),
        ("GET", "sessions?client=0.0.0.0/0&limit=5000"),
        ("GET", "events?limit=5000"),
        ("GET", "events?limit=many"),
        ("GET", "explain?backend=10.0.0.1:80"),
        ("GET", "choices?limit=1000"),
        ("POST", "backends/default/10.0.0.1:80/drain"),
        ("POST", "sessions/1/kill"),
    ]
]
SCRAPES_PAUSE_S: Final = 0.5
PAUSE_S: Final = 0.001
"""Seconds between two requests on sessions."""
NEW_EVERY: Final = 4
"""One request in so many uses a new session."""
WARM_UP_S: Final = 0.2
BLOCK: Final = bytes(65536)


def put_ahead(pid: int) -> None:
    """Raise a process's scheduling priority, 0 for this process, if permitted."""
    with suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))


def pipelined(address: Address, end: float) -> None:
    """Pipeline requests on a connection without reading answers, until no more are accepted; then on a new one."""
    while time.monotonic() < end:
        with suppress(OSError), connect(address) as client:
            client.settimeout(1.0)
            while time.monotonic() < end:
                client.sendall(600 * GET)


def crowds(address: Address, end: float) -> None:
    """Fifty connections at a time with two requests each, whose answers are not read."""
    while time.monotonic() < end:
        with ExitStack() as stack:
            for _ in range(50):
                client = stack.enter_context(connect(address))
                with suppress(OSError):
                    client.sendall(2 * GET)
            time.sleep(0.5)


def bodies(address: Address, end: float) -> None:
    """Requests with bodies of 300 MB."""
    while time.monotonic() < end:
        with suppress(OSError), connect(address) as client:
            client.sendall(POST)
            while time.monotonic() < end:
                client.sendall(BLOCK)


def slow_readers(address: Address, end: float) -> None:
    """More connections than allowed; each reads slowly, and reconnects when it is closed."""
    clients: dict[int, socket.socket] = {}
    poller = select.poll()
    while time.monotonic() < end:
        while len(clients) < 80:
            client = connect(address, receive_buffer=SMALL_BUFFER)
            clients[client.fileno()] = client
            poller.register(client, select.POLLIN)
            with suppress(OSError):
                client.sendall(GET)
        for descriptor, _ in poller.poll(10):
            with suppress(OSError):
                if clients[descriptor].recv(4096):
                    continue
            poller.unregister(descriptor)
            clients.pop(descriptor).close()
        time.sleep(0.01)
    for client in clients.values():
        client.close()


def monitors(address: Address, end: float) -> None:
    """Twenty clients that request continuously and read the answers."""

    def watch() -> None:
        with suppress(OSError), connect(address) as client:
            while time.monotonic() < end:
                _get(client, GET)

    watching = [threading.Thread(target=watch) for _ in range(20)]
    for thread in watching:
        thread.start()
    for thread in watching:
        thread.join()


def strangers(address: Address, end: float) -> None:
    """One connection after another: without data, with an invalid request, or with a single byte of one."""
    while time.monotonic() < end:
        for data in (b"", b"\x16\x03\x01" + BLOCK, b"G", 600 * b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            client = connect(address)
            with suppress(OSError):
                client.send(data)
            client.close()


def _get(client: socket.socket, request: bytes) -> None:
    """Request a document, and read it."""
    client.sendall(request)
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    receive(client, int(head.lower().partition(b"content-length: ")[2].split()[0]))


def streams(address: Address, end: float) -> None:
    """Streams, more than allowed: some are read, some are not, and some are left at once and begun again."""
    while time.monotonic() < end:
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(address, receive_buffer=SMALL_BUFFER)) for _ in range(40)]
            for client in clients:
                with suppress(OSError):
                    client.sendall(STREAM)
            until = min(end, time.monotonic() + 0.5)
            while time.monotonic() < until:
                time.sleep(0.01)
                for client in clients[:20]:
                    with suppress(OSError):
                        client.recv(65536, socket.MSG_DONTWAIT)


def queries(address: Address, end: float) -> None:
    """Twenty clients that ask for lists and changes, each of another kind, and leave in the middle of every other."""

    def ask(number: int) -> None:
        while time.monotonic() < end:
            request = QUERIES[number % len(QUERIES)]
            number += 1
            with suppress(OSError), connect(address, receive_buffer=SMALL_BUFFER) as client:
                client.settimeout(2.0)
                client.sendall(request)
                while client.recv(65536) and number % 2:
                    pass

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()


def scrapes(address: Address, end: float) -> None:
    """A Prometheus in a hurry: it pauses only until the page is rendered anew."""
    waits = []
    while (started := time.monotonic()) < end - SCRAPES_PAUSE_S:
        with connect(address) as client:
            _get(client, SCRAPE)
        waits.append(time.monotonic() - started)
        time.sleep(SCRAPES_PAUSE_S)
    print(json.dumps(waits))


ATTACKS: Final[dict[str, Callable[[Address, float], None]]] = {
    "pipelined": pipelined,
    "crowds": crowds,
    "bodies": bodies,
    "slow-readers": slow_readers,
    "monitors": monitors,
    "strangers": strangers,
    "streams": streams,
    "queries": queries,
}


def sessions(address: Address, end: float) -> None:
    waits: dict[str, list[float]] = {"kept": [], "new": []}
    failed = number = 0
    beginning = time.monotonic() + WARM_UP_S
    established = _open(address)
    while (started := time.monotonic()) < end:
        number += 1
        kind = "kept" if number % NEW_EVERY else "new"
        try:
            if kind == "kept":
                _ask(established)
            else:
                with _open(address) as client:
                    _ask(client)
        except OSError:
            failed += 1
            established.close()
            established = _open(address)
        ended = time.monotonic()
        if ended >= beginning:
            waits[kind].append(ended - started)
        time.sleep(PAUSE_S)
    established.close()
    print(json.dumps({**waits, "failed": failed}))


def _open(address: Address) -> socket.socket:
    client = connect(address)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _ask(client: socket.socket) -> None:
    """Send a request and read the answer. Raises `OSError` if the session fails."""
    client.sendall(b"question")
    if receive(client, 8) != b"question":
        raise ConnectionError("the session has ended")


def serve() -> None:
    """A back-end for `sessions`, until stdin ends; prints its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            echo(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()
    hang_up(listener)


def main(kind: str, *told: str) -> None:
    ahead = kind in ("sessions", "serve")
    if ahead:
        put_ahead(0)
    else:
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    if kind == "serve":
        serve()
        return
    host, port, seconds = told
    address, end = (host, int(port)), time.monotonic() + float(seconds)
    if ahead:
        sessions(address, end)
        return
    if kind == "scrapes":
        scrapes(address, end)
        return
    with suppress(OSError):  # a listener that answers nobody any more
        ATTACKS[kind](address, end)


if __name__ == "__main__":
    main(*sys.argv[1:])
