"""A host vanishes while sessions are on it: they end soon, unless they are to be kept; those of others go on."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import attrs
import pytest

from rproxy.net.addresses import written
from rproxy.sessions.down_timeout import LIMIT_S
from tests.hosts.net import Host, Network
from tests.integration.addresses import LOOPBACK
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.twistd import Twistd

VARIANTS: Final = {"splice": ("splice", "end"), "portable": ("portable", "end"), "kept": ("splice", "keep")}
"""Proxies side by side, by name: carrier, and what becomes of such sessions."""
SESSIONS: Final = 3
"""Of each proxy on each of the two servers."""
TIMING: Final = ["--probe-interval", "0.5", "--probe-timeout", "0.3", "--liveness", "1.5"]
DOWN_S: Final = 5.0
WITHIN_S: Final = 30.0
ECHO: Final = """
import socket, sys, threading
def echo(connection):
    while data := connection.recv(4096):
        connection.sendall(data)
listener = socket.create_server((sys.argv[1], 80))
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""
CLIENT: Final = """
import socket, sys
connections = []
for line in sys.stdin:
    port, number = map(int, line.split())
    for _ in range(number):
        connections.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        connections[-1].sendall(b"x")
        assert connections[-1].recv(1) == b"x"
    print("ready", flush=True)
"""
"""Its connections say a byte, and nothing any more."""


@attrs.frozen
class Running:
    """Every proxy, and the clients that run beside them."""

    proxies: dict[str, Proxy]
    clients: subprocess.Popen[str]

    def connect(self, name: str, number: int) -> None:
        assert self.clients.stdin is not None
        assert self.clients.stdout is not None
        self.clients.stdin.write(f"{self.proxies[name].address[1]} {number}\n")
        self.clients.stdin.flush()
        assert self.clients.stdout.readline() == "ready\n"


@pytest.fixture
def running(network: Network, tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as stack:
        here = network.proxy
        for server in network.servers:
            run(stack, server, ECHO, server.address)
        proxies: dict[str, Proxy] = {}
        for name, (carrier, on_down) in VARIANTS.items():
            folder = tmp_path / name
            folder.mkdir()
            options = ["--listen", f"{LOOPBACK}:0", "--monitor", f"{here.address}:0", "--allow", "10.1.1.0/24"]
            options += ["--carrier", carrier, "--on-down", on_down, "--policy", "round-robin", *TIMING]
            proxies[name] = stack.enter_context(Proxy(folder, *options, prefix=here.prefix))
        for server in network.servers:
            folder = tmp_path / server.name
            folder.mkdir()
            told = [word for proxy in proxies.values() for word in ("--proxy", written(proxy.monitor))]
            stack.enter_context(Twistd(folder, "rproxy-agent", *told, "--interval", "1", prefix=server.prefix))
        for proxy in proxies.values():
            poll(lambda of=proxy: states(of) == ["up", "up"], READY_S, "both are up", every_s=0.2)  # type: ignore[misc]
        yield Running(proxies, run(stack, here, CLIENT))


def run(stack: ExitStack, host: Host, code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [*host.prefix, sys.executable, "-c", code, *arguments]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(end, program)
    return program


def end(program: subprocess.Popen[str]) -> None:
    program.kill()
    program.communicate()


def states(proxy: Proxy) -> list[str]:
    return sorted(row["state"] for row in proxy.status()["backends"])


def connections(proxy: Proxy) -> dict[str, int]:
    return {row["address"]: row["connections"] for row in proxy.status()["backends"]}


def test_sessions_on_a_host_that_vanishes_end_within_half_a_minute_of_its_being_down(
    network: Network, running: Running
) -> None:
    gone, there = network.servers
    for name, proxy in running.proxies.items():
        running.connect(name, 2 * SESSIONS)
        assert connections(proxy) == {gone.address: SESSIONS, there.address: SESSIONS}
    gone.cut()
    down = {name: went_down(proxy) for name, proxy in running.proxies.items()}
    ended = {name for name, (_, on_down) in VARIANTS.items() if on_down == "end"}
    for name in ended:
        within_s = down[name] + WITHIN_S - time.monotonic()
        line = rf"({SESSIONS}) session\(s\) closed: their back-end is down, and nothing moved for {LIMIT_S:g} s"
        running.proxies[name].logged(line, within_s)
        assert time.monotonic() - down[name] > LIMIT_S - DOWN_S
    for name, proxy in running.proxies.items():
        left = 0 if name in ended else SESSIONS
        assert sum(connections(proxy).values()) == SESSIONS + left
        assert proxy.sessions() == ({"backend-down": SESSIONS} if name in ended else {})
        assert re.findall("Traceback|Unhandled", proxy.log) == []


def went_down(proxy: Proxy) -> float:
    """When, on the monotonic clock."""
    proxy.logged(r"(suspect -> down|up -> down)", DOWN_S)
    return time.monotonic()
