"""No source port is left to connect to a back-end from: that is not the back-end's fault, and passes by itself."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import need
from tests.hosts.net import Host, Wiring
from tests.integration.conftest import BY_REPORT, CARRIERS, carrier_options
from tests.integration.fake_agents import BUSY, IDLE
from tests.integration.logs import failures
from tests.integration.polling import in_background
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import Listener
from tests.integration.sockets import connect, receive, receive_all, reset
from tests.integration.twistd import RESTING

pytestmark = [pytest.mark.hosts, pytest.mark.parametrize("carrier", CARRIERS)]

PORTS: Final = range(50_000, 50_008)
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_CLONE_NEWNET: Final = 0x40000000


@pytest.fixture
def host() -> Iterator[Host]:
    """Its loopback interface is its own, and so are its ports."""
    need("ip", root=True)
    wiring = Wiring()
    try:
        yield wiring.host("ports")
    finally:
        wiring.close()


def run_inside(host: Host, call: Callable[..., None], *arguments: object) -> None:
    """In a thread that has entered the host's namespace: all sockets, threads and processes it starts are there."""

    def enter_and_call() -> None:
        with open(f"/run/netns/{host.namespace}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        call(*arguments)

    in_background(enter_and_call).result()


def with_a_proxy(carrier: str, folder: Path, call: Callable[[Pool], None]) -> None:
    """Its clients need no ports, and its probes, which would clear whom they find well of all blame, are rare."""
    options = ["--listen", f"unix:{folder / 'socket'}", "--probe-interval", "60", "--liveness", "120"]
    with Proxy(folder, *options, *BY_REPORT, *carrier_options(carrier)) as proxy:
        pool = Pool(proxy)
        try:
            call(pool)
        finally:
            pool.abandon()
        assert failures(proxy.log) == []


def visitor(pool: Pool) -> socket.socket:
    return pool.keep(connect(pool.proxy.listeners[0]))


def use_all_ports(pool: Pool, listener: Listener) -> list[socket.socket]:
    """All from which `listener` can be connected to: the servers' ends. Each is used once for every listener."""
    _RANGE.write_text(f"{PORTS[0]} {PORTS[-1]}")
    for _ in PORTS:
        visitor(pool)
    return [listener.accept() for _ in PORTS]


def assert_served_by(listener: Listener, pool: Pool) -> None:
    client = visitor(pool)
    listener.accept().sendall(b"hello")
    assert receive(client, 5) == b"hello"


def test_a_back_end_that_no_port_is_left_for_is_not_blamed(carrier: str, host: Host, tmp_path: Path) -> None:
    def run(pool: Pool) -> None:
        preferred, other = pool.listen(IDLE), pool.listen(BUSY)
        servers = use_all_ports(pool, preferred)
        for redispatches in range(3):
            assert pool.proxy.status()["counters"]["redispatches"] == redispatches
            assert_served_by(other, pool)
        assert pool.proxy.share_of_a_core() < RESTING
        assert pool.proxy.state(preferred.address) == "up"
        reset(servers[0])
        assert_served_by(preferred, pool)

    run_inside(host, with_a_proxy, carrier, tmp_path, run)


def test_clients_that_no_port_is_left_for_are_let_go_at_once(carrier: str, host: Host, tmp_path: Path) -> None:
    def run(pool: Pool) -> None:
        only = pool.listen()
        servers = use_all_ports(pool, only)
        for _ in range(20):
            assert receive_all(visitor(pool)) == b""
        assert "no back-end could be connected to" in pool.proxy.log
        assert pool.proxy.share_of_a_core() < RESTING
        assert pool.proxy.state(only.address) == "up"
        reset(servers[0])
        assert_served_by(only, pool)

    run_inside(host, with_a_proxy, carrier, tmp_path, run)
