"""A host's service: `... ADDRESS PORT NAME USAGE`, the file that tells the CPU time of the host's group.

A client sends the CPU time in ms that its work costs, as a line, and gets the host's name, as a line, when that has
been spent. All work in hand shares the CPU equally (processor sharing), by turns of 1 ms; several pieces of work of one
connection come one after the other.

Prints its port once it is ready. A line on standard input asks for `Served` since the last one, as JSON. Ends with its
standard input.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from rproxy.net.addresses import Address
from tests.benchmarks.hosts.cgroups import usage_s

TURN_S: Final = 0.001
STRETCH_MIN_S: Final = 0.2
"""A busy time counts if it is this long: shorter ones may live on what the quota's period has left."""
BACKLOG: Final = 4096
ACCEPTS_MAX: Final = 64
"""Connections that are accepted between two turns."""
LINES_MAX: Final = 65536
_STDIN: Final = 0


@attrs.define
class Served:
    """What a service has done."""

    work_s: float = 0.0
    """CPU time that clients asked for and got."""
    busy_s: float = 0.0
    """Time with work in hand throughout, in stretches of `STRETCH_MIN_S` and more."""
    used_s: float = 0.0
    """CPU time that the whole group had in it."""


def burn(cpu_s: float) -> None:
    """Use this much CPU time."""
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


@attrs.define(eq=False)
class Client:
    connection: socket.socket
    partial: bytes = b""
    """The beginning of a line."""
    pieces: deque[float] = attrs.field(factory=deque)
    """CPU times in s that its pieces of work still cost, in order."""


class Service:
    """Serves until its standard input ends."""

    def __init__(self, address: Address, name: str, usage: Path) -> None:
        self._answer = f"{name}\n".encode()
        self._usage = usage
        self._listener = socket.create_server(address, backlog=BACKLOG)
        self._listener.setblocking(False)
        self._clients: dict[int, Client] = {}
        self._turns: deque[Client] = deque()
        """Those with work in hand."""
        self._served = Served()
        self._busy_since: tuple[float, float] | None = None
        """When the busy stretch began, and the group's CPU time then."""
        self._epoll = select.epoll()
        for source in (self._listener.fileno(), _STDIN):
            self._epoll.register(source, select.EPOLLIN)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def run(self) -> None:
        asked = True
        while asked:
            for source, _ in self._epoll.poll(0 if self._turns else -1):
                if source == self._listener.fileno():
                    self._accept()
                elif source == _STDIN:
                    asked = self._tell()
                elif source in self._clients:
                    self._read(self._clients[source])
            if self._turns:
                self._turn()

    def _accept(self) -> None:
        with suppress(OSError):  # until there are no more
            for _ in range(ACCEPTS_MAX):
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._clients[connection.fileno()] = Client(connection)
                self._epoll.register(connection, select.EPOLLIN)

    def _read(self, client: Client) -> None:
        try:
            data = client.connection.recv(LINES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(client)
            return
        *lines, client.partial = (client.partial + data).split(b"\n")
        idle = not client.pieces
        client.pieces.extend(float(line) / 1000 for line in lines)
        if idle and client.pieces:
            self._turns.append(client)
            self._begin_stretch()

    def _close(self, client: Client) -> None:
        """The client is gone, and with it its work."""
        del self._clients[client.connection.fileno()]
        client.connection.close()
        if client.pieces:
            client.pieces.clear()
            self._turns.remove(client)
            self._end_stretch()

    def _turn(self) -> None:
        """Work for the client whose turn it is."""
        client = self._turns.popleft()
        spent_s = min(client.pieces[0], TURN_S)
        burn(spent_s)
        self._served.work_s += spent_s
        client.pieces[0] -= spent_s
        if client.pieces[0] <= 0:
            client.pieces.popleft()
            with suppress(OSError):  # it may be gone; its end of stream is read next
                client.connection.send(self._answer)
        if client.pieces:
            self._turns.append(client)
        else:
            self._end_stretch()

    def _begin_stretch(self) -> None:
        if self._busy_since is None:
            self._busy_since = time.monotonic(), usage_s(self._usage)

    def _end_stretch(self) -> None:
        """Count the busy stretch if all work is done."""
        if self._turns or self._busy_since is None:
            return
        since, used_s = self._busy_since
        self._busy_since = None
        busy_s = time.monotonic() - since
        if busy_s >= STRETCH_MIN_S:
            self._served.busy_s += busy_s
            self._served.used_s += usage_s(self._usage) - used_s

    def _tell(self) -> bool:
        """Answer on standard output; False at the end of standard input."""
        if not sys.stdin.readline():
            return False
        turns, self._turns = self._turns, deque()
        self._end_stretch()  # a stretch that goes on counts so far, and begins anew
        self._turns = turns
        if turns:
            self._begin_stretch()
        print(json.dumps(attrs.asdict(self._served)), flush=True)
        self._served = Served()
        return True


def main(address: str, port: str, name: str, usage: str) -> None:
    gc.disable()
    service = Service((address, int(port)), name, Path(usage))
    print(json.dumps(service.port), flush=True)
    service.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
