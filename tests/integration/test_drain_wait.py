"""An agent that is stopped with `--drain-wait` lets the sessions on its service end, and a deploy cuts nobody."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import pytest

from rproxy.net.addresses import Address
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import greeting, serve, start_agent, wait_until_up
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, READY_S, STOP_S, in_background, poll
from tests.integration.proxies import Proxy
from tests.integration.servers import Server, echo
from tests.integration.sockets import connect, receive, receive_all
from tests.integration.stopwatch import Stopwatch
from tests.integration.twistd import Twistd

WAIT: Final = ("--drain-wait", "30")
SESSION_S: Final = 0.3
"""How long a client of a deploy stays."""


@attrs.frozen
class Drained:
    """A back-end with a session, and another one."""

    proxy: Proxy
    agent: Twistd
    service: Address
    client: socket.socket

    def assert_session_goes_on(self) -> None:
        self.client.sendall(b"still here")
        assert receive(self.client, 10) == b"still here"

    def end_session(self) -> None:
        self.client.shutdown(socket.SHUT_WR)
        assert receive_all(self.client) == b""


def drained(start: Starter, *options: str) -> Drained:
    proxy = start.proxy("--policy", "round-robin")
    first, second = serve(start, b"first"), serve(start, b"other")
    agent = start_agent(start, proxy, first, *options)
    start_agent(start, proxy, second)
    wait_until_up(proxy, first, second)
    while True:
        client = connect(proxy.address)
        start.closing(client.close)
        if receive(client, 5) == b"first":
            return Drained(proxy, agent, first, client)
        client.close()


def test_it_answers_until_the_last_session_has_ended_and_gets_no_client(start: Starter) -> None:
    bench = drained(start, *WAIT)
    bench.agent.send_signal(signal.SIGTERM)
    bench.agent.logged(r"stopping: (1 session\(s\) left), for up to 30 s")
    poll(lambda: bench.proxy.state(bench.service) == "draining", READY_S, "it drains")
    assert {greeting(bench.proxy) for _ in range(5)} == {b"other"}
    time.sleep(2 * PROMPT_S)
    bench.assert_session_goes_on()
    assert bench.agent.running
    assert bench.proxy.state(bench.service) == "draining"
    bench.end_session()
    assert bench.agent.wait(STOP_S) == -signal.SIGTERM
    assert "stopping: no proxy has a session left" in bench.agent.log
    poll(lambda: bench.proxy.state(bench.service) is None, READY_S, "it has unregistered")
    assert failures(bench.agent.log) == []


def test_a_second_signal_ends_the_wait_and_no_session(start: Starter) -> None:
    bench = drained(start, *WAIT)
    bench.agent.send_signal(signal.SIGTERM)
    bench.agent.logged(r"(stopping: 1 session)")
    bench.agent.send_signal(signal.SIGTERM)
    assert bench.agent.wait(PROMPT_S) == -signal.SIGTERM
    poll(lambda: bench.proxy.state(bench.service) != "draining", READY_S, "it has unregistered")
    bench.assert_session_goes_on()


def test_it_waits_no_longer_than_it_was_told(start: Starter) -> None:
    bench = drained(start, "--drain-wait", "1")
    watch = Stopwatch()
    bench.agent.send_signal(signal.SIGTERM)
    assert bench.agent.wait(STOP_S) == -signal.SIGTERM
    assert watch.wall_s >= 1.0
    assert watch.own_s < STOP_S
    assert "stopping: 1 session(s) left, after 1 s" in bench.agent.log
    bench.assert_session_goes_on()


def test_without_a_session_it_ends_soon(start: Starter) -> None:
    """Within two registrations, though the proxy probes seldom."""
    proxy = start.proxy("--probe-interval", "60", "--liveness", "120")
    service = serve(start, b"word")
    agent = start_agent(start, proxy, service, *WAIT)
    wait_until_up(proxy, service)
    watch = Stopwatch()
    assert agent.stop() == -signal.SIGTERM
    assert watch.own_s < 3.0
    assert "no proxy has a session left" in agent.log


def test_the_service_manager_is_told_what_it_waits_for(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(start.folder / "notify"))
        manager.settimeout(READY_S)
        proxy = start.proxy()
        service = serve(start, b"word")
        monkeypatch.setenv("NOTIFY_SOCKET", str(start.folder / "notify"))
        agent = start_agent(start, proxy, service, *WAIT)
        wait_until_up(proxy, service)
        with connect(proxy.address) as client:
            assert receive(client, 4) == b"word"
            agent.send_signal(signal.SIGTERM)
            lines: list[str] = []
            while "EXTEND_TIMEOUT_USEC=20000000" not in lines:
                lines += manager.recv(4096).decode().split("\n")
            assert lines.index("STOPPING=1") < lines.index("STATUS=stopping: 1 session(s) left")
        assert agent.wait(STOP_S) == -signal.SIGTERM


@contextmanager
def patient_clients(proxy: Proxy, number: int) -> Iterator[Counter[str]]:
    """So many clients at a time, each of which stays for `SESSION_S`; yields how many were served, and what failed."""
    outcomes: Counter[str] = Counter()
    over = threading.Event()

    def visit() -> None:
        while not over.is_set():
            try:
                with connect(proxy.address) as client:
                    assert receive(client, 4) == b"word"
                    over.wait(SESSION_S)
                    client.sendall(b"still here")
                    assert receive(client, 10) == b"still here"
                outcomes["served"] += 1
            except (OSError, AssertionError) as error:
                outcomes[repr(error)] += 1

    visiting = [in_background(visit) for _ in range(number)]
    try:
        yield outcomes
    finally:
        over.set()
        for each in visiting:
            each.result()


def greet(connection: socket.socket) -> None:
    connection.sendall(b"word")
    echo(connection)


@every_carrier
def test_a_deploy_of_all_services_one_after_the_other_cuts_nobody(variant: Variant, start: Starter) -> None:
    """A service that is closed resets the sessions that it has, as the end of its process does."""
    proxy = start.proxy(*variant.options)
    servers = [Server(greet) for _ in range(2)]
    addresses = [server.address for server in servers]
    agents = [start_agent(start, proxy, address, *WAIT) for address in addresses]
    wait_until_up(proxy, *addresses)
    with patient_clients(proxy, 4) as outcomes:
        time.sleep(SESSION_S)
        for agent, server, address in zip(agents, servers, addresses, strict=True):
            assert agent.stop(within_s=READY_S) == -signal.SIGTERM
            server.close()
            again = Server(greet, LOOPBACK, port=address[1])
            start.closing(again.close)
            start_agent(start, proxy, address, *WAIT)
            wait_until_up(proxy, address)
            time.sleep(SESSION_S)
    assert outcomes.pop("served") > 8
    assert outcomes == {}
