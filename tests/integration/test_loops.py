"""Back-ends that are the proxy itself: by its own listener, by a second proxy, and by a socket that meets itself."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import need
from tests.hosts.net import Host, Wiring
from tests.hosts.test_ports import run_inside
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import CARRIERS, Starter, carrier_options
from tests.integration.fake_agents import FakeAgent
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import connect, receive, receive_all

LAN: Final = "192.0.2.1"
OPTIONS: Final = ["--allow", "0.0.0.0/0", "--allow", "::/0"]
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
PLACES: Final = 60


@pytest.fixture
def host() -> Iterator[Host]:
    """With an address beside the loopback one."""
    need("ip", root=True)
    wiring = Wiring()
    try:
        host = wiring.host("loops")
        host.output("ip", "address", "add", f"{LAN}/32", "dev", "lo")
        yield host
    finally:
        wiring.close()


def refused(proxy: Proxy) -> int:
    count: int = proxy.status()["counters"]["dropped"].get("own-listener", 0)
    return count


@pytest.mark.parametrize("listen", ["81", "[::]:81", "0.0.0.0:81", f"{LOOPBACK}:81", f"{LAN}:81"])
def test_its_own_listener_is_no_back_end(listen: str, host: Host, tmp_path: Path) -> None:
    """By whatever address of this host an agent registers it; another port of the host's is one."""

    def run() -> None:
        options = ["--listen", listen, "--monitor", "5555", *OPTIONS]
        with Proxy(tmp_path, *options) as proxy:
            places = [LAN, LOOPBACK]
            named = [listen.rpartition(":")[0]] if listen.startswith(("127", "192")) else places
            agents = [FakeAgent((place, 5555), 81) for place in named]
            others = [FakeAgent((place, 5555), 82) for place in places]
            poll(lambda: refused(proxy) >= len(named), READY_S, "it is refused")
            poll(lambda: all(proxy.state(each.backend) == "up" for each in others), READY_S, "the others are up")
            assert {port for _, port in proxy.backends()} == {82}
            (told,) = re.findall(r"no back-end: (\S+):81, registered by an agent, leads to this proxy", proxy.log)
            assert told in named
            for agent in agents + others:
                agent.close(unregister=False)
            assert failures(proxy.log) == []

    run_inside(host, run)


def visitor(proxy: Proxy) -> socket.socket:
    return connect(proxy.address)


def places_of(limited: str, folder: Path) -> list[str]:
    """The options for a proxy in which the process or its service has `PLACES`."""
    if limited == "process":
        return ["--max-connections", f"{PLACES}"]
    path = folder / "rproxy.toml"
    path.write_text(f'[[service]]\nname = "web"\nlisten = "{LOOPBACK}:0"\nmax-connections = {PLACES}\n')
    return ["--config", str(path)]


@pytest.mark.parametrize("limited", ["process", "service"])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_loop_through_a_second_proxy_is_found_named_and_ended(carrier: str, limited: str, start: Starter) -> None:
    options = [*carrier_options(carrier), *places_of(limited, start.folder)]
    one, two = start.proxy(*options), start.elsewhere().proxy(*options)
    agents = [FakeAgent(one.monitor, two.address[1]), FakeAgent(two.monitor, one.address[1])]
    for agent in agents:
        start.closing(agent.close)
    poll(lambda: one.state(two.address) == "up" and two.state(one.address) == "up", READY_S, "both are up")
    with visitor(one) as client:
        client.sendall(b"hello?")
        poll(lambda: "leads back to this proxy" in one.log + two.log, READY_S, "it is named", every_s=0.1)
        poll(lambda: not one.connections() + two.connections(), READY_S, "no session is left", every_s=0.1)
    finder = one if "leads back to this proxy" in one.log else two
    assert finder.backends() == {}
    pool = Pool(finder)
    start.closing(pool.abandon)
    pool.serve(echo)
    with visitor(finder) as client:
        client.sendall(b"hello?")
        assert receive(client, 6) == b"hello?"
    assert failures(one.log + two.log) == []


@pytest.mark.parametrize("carrier", ["splice"])
def test_a_full_proxy_of_idle_clients_from_its_back_ends_host_loses_one_at_most(carrier: str, start: Starter) -> None:
    """They look like a loop, and are none."""
    pool = start.pool(*carrier_options(carrier), "--max-connections", "20")
    listener = pool.listen()
    clients = [pool.connect() for _ in range(20)]
    servers = [listener.accept() for _ in range(20)]
    poll(lambda: pool.proxy.sessions().get("stopped", 0) == 1, READY_S, "one is tried", every_s=0.1)
    for server in servers:
        server.close()
    assert "leads back" not in pool.proxy.log
    assert len(clients) == len(servers)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_connect_that_meets_itself_is_a_refused_one(carrier: str, host: Host, tmp_path: Path) -> None:
    """Nothing listens at the back-end's port, and it is the only ephemeral port."""

    def run() -> None:
        options = ["--listen", f"unix:{tmp_path / 'socket'}", *carrier_options(carrier)]
        with Proxy(tmp_path, *options) as proxy:
            pool = Pool(proxy)
            free = FakeAgent(proxy.monitor, 50_000)
            poll(lambda: proxy.state(free.backend) == "up", READY_S, "it is up")
            _RANGE.write_text("50000 50000")
            for _ in range(3):
                client = connect(proxy.listeners[0])
                with client, suppress(BrokenPipeError, ConnectionResetError):  # it may have been let go by now
                    client.sendall(b"anybody?")
                    assert receive_all(client) == b""
            _RANGE.write_text("32768 60999")
            assert proxy.state(free.backend) == "down"
            free.close()
            pool.abandon()
            assert failures(proxy.log) == []

    run_inside(host, run)
