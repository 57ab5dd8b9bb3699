"""Connections to back-ends from given addresses, and from the client's own, with the routes that this needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from subprocess import Popen
from textwrap import dedent
from typing import Final

import pytest

from rproxy.tap import docs
from tests.conftest import need
from tests.hosts.net import Host, Wiring, ip
from tests.hosts.system import POLL_S, System, kill
from tests.hosts.test_ports import PORTS, run_inside
from tests.integration.conftest import BY_REPORT, CARRIERS, carrier_options
from tests.integration.fake_agents import BUSY, IDLE
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import Listener
from tests.integration.sockets import connect, receive, receive_all, reset
from tests.integration.twistd import RESTING

pytestmark = [pytest.mark.hosts, pytest.mark.parametrize("carrier", CARRIERS)]

SOURCES: Final = ("192.0.2.5", "192.0.2.6")
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
NGINX: Final = """
daemon off; pid {folder}/pid; error_log {folder}/errors;
events {{ }}
http {{
    access_log off;
    server {{ listen 80; listen [::]:80; location / {{ return 200 "$remote_addr $remote_port\\n"; }} }}
}}
"""
ASK: Final = """
import socket, sys
with socket.create_connection((sys.argv[1], 80), 10) as client:
    own = client.getsockname()
    client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    answer = b"".join(iter(lambda: client.recv(4096), b""))
print(own[0], own[1])
print(answer.decode().splitlines()[-1])
"""


@pytest.fixture
def host() -> Iterator[Host]:
    """Its loopback interface has the sources."""
    need("ip", root=True)
    wiring = Wiring()
    try:
        made = wiring.host("sources")
        for source in SOURCES:
            ip("-n", made.namespace, "address", "add", f"{source}/32", "dev", "lo")
        yield made
    finally:
        wiring.close()


def with_a_proxy(carrier: str, folder: Path, run: object) -> None:
    """Its clients need no ports; probes are rare, as they would clear those whom they find well of all blame."""
    file = folder / "rproxy.toml"
    file.write_text(
        f'[[service]]\nname = "web"\nlisten = ["unix:{folder / "socket"}"]\nsource = {list(SOURCES)}\n',
        encoding="utf-8",
    )
    options = ["--config", str(file), "--probe-interval", "60", "--liveness", "120"]
    with Proxy(folder, *options, *BY_REPORT, *carrier_options(carrier)) as proxy:
        pool = Pool(proxy)
        try:
            run(pool)  # type: ignore[operator]
        finally:
            pool.abandon()
        assert failures(proxy.log) == []


def crowd(pool: Pool, listener: Listener, number: int) -> list[str]:
    """So many more sessions on the back-end that is preferred; the addresses that it sees them from."""
    for _ in range(number):
        pool.keep(connect(pool.proxy.listeners[0]))
    return [listener.accept().getpeername()[0] for _ in range(number)]


def test_every_port_of_every_source_serves_each_back_end(carrier: str, host: Host, tmp_path: Path) -> None:
    """Binding alone takes no port, so two sources of eight ports connect sixteen times to each of two back-ends."""

    def run(pool: Pool) -> None:
        first, second = pool.listen(IDLE), pool.listen(BUSY)
        _RANGE.write_text(f"{PORTS[0]} {PORTS[-1]}")
        most = len(SOURCES) * len(PORTS)
        for listener in (first, second):
            seen = crowd(pool, listener, most)
            assert {source: seen.count(source) for source in SOURCES} == dict.fromkeys(SOURCES, len(PORTS))
        for _ in range(20):
            assert receive_all(pool.keep(connect(pool.proxy.listeners[0]))) == b""
        assert pool.proxy.share_of_a_core() < RESTING
        assert [pool.proxy.state(listener.address) for listener in (first, second)] == ["up", "up"]
        for source in SOURCES:
            assert pool.proxy.log.count(f"cannot connect from {source} to") == 1
        reset(first.accepted[0])
        client = pool.keep(connect(pool.proxy.listeners[0]))
        first.accept().sendall(b"hello")
        assert receive(client, 5) == b"hello"

    run_inside(host, with_a_proxy, carrier, tmp_path, run)


def test_a_source_that_the_host_loses_is_skipped_and_no_back_end_is_blamed(
    carrier: str, host: Host, tmp_path: Path
) -> None:
    def run(pool: Pool) -> None:
        only = pool.listen()
        assert set(crowd(pool, only, 4)) == set(SOURCES)
        ip("-n", host.namespace, "address", "del", f"{SOURCES[0]}/32", "dev", "lo")
        assert set(crowd(pool, only, 4)) == {SOURCES[1]}
        lost = f"cannot connect from {SOURCES[0]}: this host does not have this address"
        assert pool.proxy.log.count(lost) == 1
        ip("-n", host.namespace, "address", "del", f"{SOURCES[1]}/32", "dev", "lo")
        for _ in range(5):
            assert receive_all(pool.keep(connect(pool.proxy.listeners[0]))) == b""
        assert pool.proxy.state(only.address) == "up"
        ip("-n", host.namespace, "address", "add", f"{SOURCES[1]}/32", "dev", "lo")
        assert set(crowd(pool, only, 2)) == {SOURCES[1]}

    run_inside(host, with_a_proxy, carrier, tmp_path, run)


def recipe() -> str:
    """The commands of the manual that begin with nft."""
    page = docs.pages()["clients"]
    lines = page[page.index("    nft -f") :].splitlines()
    return dedent("\n".join(takewhile(lambda line: line.startswith("    "), lines)))


def start_nginx(host: Host, folder: Path, stack: ExitStack) -> None:
    (nginx,) = need("nginx")
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder), encoding="utf-8")
    stack.callback(kill, Popen([*host.prefix, nginx, "-c", str(config), "-e", str(folder / "errors")]))


def seen_and_own(client: Host, proxy: str) -> tuple[str, str]:
    """The address and port at which the back-end sees the client, and its own."""
    own, seen = client.output(sys.executable, "-c", ASK, proxy).decode().splitlines()
    return seen, own


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_back_end_sees_the_clients_own_address_and_port(
    carrier: str, family: str, system: System, tmp_path: Path
) -> None:
    """The back-end's routes to the clients lead by the proxy."""
    need("nft", "nginx", root=True)
    network = system.network
    backend, neighbour = network.servers
    proxy = network.proxy
    proxy.output("sh", "-e", "-c", recipe())
    if family == "IPv4":
        client, asked, agents_proxy = network.client, proxy.address, proxy.address
        ip("-n", backend.namespace, "route", "add", "10.2.2.0/24", "via", proxy.address)
    else:
        client, asked, agents_proxy = neighbour, proxy.address6, f"[{proxy.address6}]"
        ip("-n", backend.namespace, "-6", "route", "add", f"{client.address6}/128", "via", proxy.address6)
    file = tmp_path / "rproxy.toml"
    file.write_text('[[service]]\nname = "web"\nlisten = ["80"]\nsource = "client"\n', encoding="utf-8")
    with ExitStack() as stack:
        start_nginx(backend, tmp_path, stack)
        system.start_proxy("--config", str(file), "--allow", "::/0", *carrier_options(carrier), allow="0.0.0.0/0")
        system.start_agent(backend, proxy=agents_proxy)
        address = backend.address if family == "IPv4" else backend.address6
        poll(lambda: system.proxy.state((address, 80)) == "up", READY_S, "the back-end is up", every_s=POLL_S)
        for _ in range(3):
            seen, own = seen_and_own(client, asked)
            assert seen == own
        assert system.backend(backend)["total"] == 3
        assert "cannot connect" not in system.proxy.log
        assert failures(system.proxy.log) == []
