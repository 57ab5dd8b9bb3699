"""A proxy that is replaced by a new process while clients come: nobody is refused, and the old one drains."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from rproxy.net.addresses import Address, written
from tests.certificates import Authority
from tests.config.keyfiles import text_file
from tests.conftest import need
from tests.integration import slow_page
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import greeting, serve, start_agent, wait_until_up
from tests.integration.conftest import CARRIERS, Starter, carrier_options
from tests.integration.fake_agents import FakeAgent
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import READY_S, STOP_S, poll
from tests.integration.proxies import Proxy
from tests.integration.sockets import connect, receive
from tests.integration.steady_clients import SteadyClients
from tests.integration.test_limits import _AS_SYSTEMD as AS_SYSTEMD
from tests.integration.test_restarts import wait_until_kept
from tests.integration.test_service_manager import free_ports
from tests.integration.tls import client_context, table, tls_connect, tls_table
from tests.integration.twistd import environment, run_twistd

RATE: Final = 1000
RESTARTS: Final = 20
FEW: Final = 4
MORE: Final = 1.5
"""Connections that wrk has open at once, to those that would do if the proxy took no time."""
SELDOM: Final = ("--interval", "300")


@pytest.fixture
def clients() -> Iterator[SteadyClients]:
    with SteadyClients(RATE) as clients:
        yield clients


def agent_for(start: Starter, proxy: Proxy, service: Address) -> None:
    """One that registers once, answers whoever probes it, and is in the state file."""
    agent = FakeAgent(proxy.monitor, service[1], interval_s=300.0)
    start.closing(lambda: agent.close(unregister=False))
    wait_until_up(proxy, agent.backend)
    wait_until_kept(start.folder / "state", agent.backend)


def options(folder: Path, carrier: str, *others: str) -> list[str]:
    return ["--state-file", str(folder / "state"), "--drain-timeout", "30", *carrier_options(carrier), *others]


def successor(start: Starter, proxy: Proxy, *options: str) -> Proxy:
    """Another one on the ports of `proxy`, which has taken over its back-ends."""
    there = ["--listen", written(proxy.address), "--monitor", written(proxy.monitor)]
    new = start.elsewhere().proxy(*there, *options)
    new.logged("(registered -> up)")
    return new


def replace(start: Starter, proxy: Proxy, times: int, *how: str) -> Proxy:
    """Replace a proxy by another one so many times; returns the last one."""
    for _ in range(times):
        old, proxy = proxy, successor(start, proxy, *how)
        assert old.stop(within_s=READY_S) == -signal.SIGTERM
        assert failures(old.log) == []
    return proxy


@pytest.mark.alone
def test_wrk_sees_no_error_while_twenty_processes_take_turns(start: Starter) -> None:
    (wrk,) = need("wrk")
    how = options(start.folder, "auto", "--reuse-port")
    proxy = start.proxy(*how)
    serving = [sys.executable, "-m", slow_page.__name__]
    page = subprocess.Popen(serving, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    start.closing(lambda: page.__exit__(None, None, None))
    assert page.stdout is not None
    agent_for(start, proxy, (LOOPBACK, int(page.stdout.readline())))
    command = [wrk, "-t1", f"-c{round(RATE * slow_page.TAKES_S * MORE)}", "-d300s", "--timeout", "10s"]
    with subprocess.Popen([*command, f"http://{written(proxy.address)}/"], stdout=subprocess.PIPE, text=True) as client:
        replace(start, proxy, RESTARTS, *how)
        client.send_signal(signal.SIGINT)  # it prints what it has seen so far
        told, _ = client.communicate(timeout=READY_S)
    assert not re.search("Socket errors|Non-2xx", told), told
    assert float(re.findall(r"Requests/sec: +([0-9.]+)", told)[0]) > 0.9 * RATE


@pytest.mark.alone
def test_processes_in_turn_refuse_nobody_with_the_portable_carrier(start: Starter, clients: SteadyClients) -> None:
    how = options(start.folder, "portable", "--reuse-port")
    proxy = start.proxy(*how)
    agent_for(start, proxy, (LOOPBACK, clients.server_port))
    clients.begin(proxy.address)
    replace(start, proxy, FEW, *how)
    outcome = clients.end()
    assert outcome.failed == {}
    assert outcome.rate > 0.9 * RATE


@pytest.mark.alone
@pytest.mark.parametrize(("carrier", "restarts"), [("splice", RESTARTS), ("portable", FEW)])
def test_processes_on_a_passed_socket_refuse_nobody(
    start: Starter, clients: SteadyClients, carrier: str, restarts: int
) -> None:
    """As systemd does: the next one starts when the last one has ended, and clients wait in between."""
    with socket.create_server((LOOPBACK, 0), backlog=4096) as sock:
        how = {
            "wrapper": [sys.executable, "-c", AS_SYSTEMD, str(sock.fileno())],
            "pass_fds": [sock.fileno()],
        }
        proxy = start.proxy(*options(start.folder, carrier), **how)
        agent_for(start, proxy, (LOOPBACK, clients.server_port))
        clients.begin(sock.getsockname())
        there = ["--monitor", written(proxy.monitor)]
        for _ in range(restarts):
            assert proxy.stop(within_s=READY_S) == -signal.SIGTERM
            proxy = start.elsewhere().proxy(*options(start.folder, carrier, *there), **how)
        outcome = clients.end()
    assert outcome.failed == {}
    assert outcome.rate > 0.9 * RATE


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_old_one_drains_with_its_sessions_and_the_new_one_has_its_agents(start: Starter, carrier: str) -> None:
    how = options(start.folder, carrier, "--reuse-port", "--probe-interval", "0.3")
    how += ["--liveness", "1"]
    old = start.proxy(*how)
    service = serve(start, b"hello")
    agent = start_agent(start, old, service, *SELDOM)
    wait_until_kept(start.folder / "state", service)
    with connect(old.address) as client:
        assert receive(client, 5) == b"hello"
        new = successor(start, old, *how)
        old.send_signal(signal.SIGTERM)
        old.logged(r"stopping: 1 session\(s\) left, which may go on for (30) s")
        for _ in range(20):
            assert greeting(new) == b"hello"
        assert new.status()["counters"]["sessions"].get("closed", 0) == 20
        for _ in range(10):  # more than the liveness of agents that answer it no more
            client.sendall(b"still")
            assert receive(client, 5) == b"still"
            time.sleep(0.2)
        assert [row["state"] for row in new.backends().values()] == ["up"]
        assert "-> down" not in old.log
    assert old.wait(STOP_S) == -signal.SIGTERM
    assert new.running
    assert [failures(process.log) for process in (old, new, agent)] == [[]] * 3


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
def test_three_processes_of_two_services_with_tls_overlap_and_any_of_them_may_end(
    start: Starter, clients: SteadyClients, keyed: bool
) -> None:
    """The oldest one ends its session when its time is over, the newest one is stopped before the one in between."""
    authority = Authority.root(start.folder)
    web, db = free_ports(2)
    tables = [
        "[proxy]\nreuse-port = true\nstate-file = 'state'",
        f"[[service]]\nname = 'web'\nlisten = ['{written(web)}']\nbackend-port = {clients.server_port}",
        f"[[service]]\nname = 'db'\nlisten = ['{written(db)}']",
        tls_table(authority.issue(LOOPBACK)),
        table("[service.backend]", address=written(serve(start, b"hello"))),
    ]
    path = start.folder / "rproxy.toml"
    path.write_text("\n".join(tables))
    keys = ["--keyring", str(Keys(start.folder).master("keys"))] if keyed else []
    how = ["--config", str(path), *keys]

    def successor(old: Proxy, *others: str) -> Proxy:
        new = start.elsewhere().proxy(*how, "--monitor", written(old.monitor), *others)
        new.logged(rf"({clients.server_port}: registered -> up)")
        return new

    def session() -> ssl.SSLSocket:
        client = tls_connect(db, client_context(authority))
        start.closing(client.close)
        assert receive(client, 5) == b"hello"
        return client

    def goes_on(client: ssl.SSLSocket) -> bool:
        client.sendall(b"still")
        return receive(client, 5) == b"still"

    oldest = start.proxy(*how)
    agent = start_agent(start, oldest, (LOOPBACK, clients.server_port), *SELDOM, *keys)
    wait_until_kept(start.folder / "state", (LOOPBACK, clients.server_port))
    clients.begin(web)
    first = session()
    between = successor(oldest, "--drain-timeout", "20")
    newest = successor(between)
    newest.send_signal(signal.SIGTERM)
    assert newest.wait(READY_S) == -signal.SIGTERM
    assert goes_on(first)
    oldest.send_signal(signal.SIGTERM)
    assert oldest.wait(READY_S) == -signal.SIGTERM
    assert "stopping: 1 session(s) left, which are reset" in oldest.log
    with suppress(ConnectionResetError):
        assert receive(first, 1) == b""
    second = session()
    last = successor(between)
    between.send_signal(signal.SIGTERM)
    between.logged(r"stopping: (\d+) session\(s\) left, which may go on")
    assert all(goes_on(each) for each in (second, session()))
    second.close()
    assert between.wait(READY_S) == -signal.SIGTERM
    assert clients.end().failed == {}
    assert [failures(each.log) for each in (oldest, between, newest, last, agent)] == [[]] * 5


def test_the_new_one_keeps_the_state_file_and_the_old_one_does_not_write_it_any_more(start: Starter) -> None:
    how = options(start.folder, "auto", "--reuse-port")
    old = start.proxy(*how)
    agent_for(start, old, (LOOPBACK, 8001))
    new = successor(start, old, *how)
    late = FakeAgent(new.monitor, 8002, interval_s=300.0)
    start.closing(lambda: late.close(unregister=False))
    wait_until_up(new, late.backend)
    state = start.folder / "state"
    poll(lambda: b"8002" in state.read_bytes(), READY_S, "the new one has written it")
    old.stop()
    assert b"8002" in state.read_bytes()
    new.stop()
    assert b"8001" in state.read_bytes()
    assert b"8002" in state.read_bytes()


def test_one_that_cannot_start_loses_none_of_the_clients(start: Starter, clients: SteadyClients) -> None:
    """It listens for them before it finds that another port of it is taken."""
    proxy = start.proxy("--reuse-port")
    agent = FakeAgent(proxy.monitor, clients.server_port)
    start.closing(lambda: agent.close(unregister=False))
    wait_until_up(proxy, agent.backend)
    clients.begin(proxy.address)
    there = ["--listen", written(proxy.address), "--monitor", written(proxy.monitor)]
    with socket.create_server((LOOPBACK, 0)) as taken:
        for _ in range(4):
            failing = run_twistd(
                start.elsewhere().folder, "rproxy", "--reuse-port", *there, "--admin", written(taken.getsockname())
            )
            assert "Address already in use" in failing.stderr
    outcome = clients.end()
    assert outcome.failed == {}


def test_without_the_option_a_port_is_in_use(start: Starter) -> None:
    proxy = start.proxy("--reuse-port")
    other = start.elsewhere().twistd("rproxy", "--listen", written(proxy.address), "--monitor", f"{LOOPBACK}:0")
    assert other.wait(READY_S) == 1
    assert f"cannot listen on --listen {written(proxy.address)}: Address already in use" in other.errors


@pytest.mark.parametrize(
    "second", [["--admin", "{}"], ["--listen", "tcp:{1}:interface={0}"], ["--admin", "0.0.0.0:{1}"]]
)
def test_one_process_has_a_port_once(start: Starter, second: list[str]) -> None:
    (address,) = free_ports(1)
    option, text = second[0], second[1].replace("{}", written(address)).format(*address)
    tokens = text_file(start.folder, "a-token-of-24-characters", name="tokens")
    there = [
        "--listen",
        written(address),
        option,
        text,
        "--monitor",
        f"{LOOPBACK}:0",
        "--admin-token-file",
        f"{tokens}",
    ]
    done = run_twistd(start.folder, "rproxy", "--reuse-port", *there)
    assert done.returncode == 1
    assert done.stderr == f"twistd: cannot listen on {option} {text}: Address already in use\n"
