"""Short sessions at a steady rate: clients of a proxy, and the server that all of its back-ends are."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rproxy.net.addresses import Address
from tests.integration.polling import SOCKET_S, in_background


class Visitors:
    """The server listens on every address of this host, at `port`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("0.0.0.0", 0), backlog=128)
        self._listener.settimeout(SOCKET_S)
        self.port: int = self._listener.getsockname()[1]

    def close(self) -> None:
        self._listener.close()

    @contextmanager
    def coming(self, proxy: Address, rate: float) -> Iterator[None]:
        """So many clients a second come meanwhile, in a thread; raises what any of them raised."""
        over = threading.Event()
        visiting = in_background(self._visit, proxy, rate, over)
        try:
            yield
        finally:
            over.set()
        visiting.result()

    def _visit(self, proxy: Address, rate: float, over: threading.Event) -> None:
        due = time.monotonic()
        while not over.wait(max(due - time.monotonic(), 0)):
            due = max(due, time.monotonic() - 1) + 1 / rate
            with socket.create_connection(proxy, timeout=SOCKET_S) as client:
                server, _ = self._listener.accept()
                with server:
                    server.sendall(b"x")  # without a byte it would count as a failed connect
                assert client.recv(1) == b"x"
