"""Listeners of both families of addresses on one port, and on addresses that are not there yet."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import need
from tests.hosts.net import Host, Wiring
from tests.hosts.test_ports import run_inside
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import CARRIERS, carrier_options
from tests.integration.fake_agents import FakeAgent
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import Server, echo
from tests.integration.sockets import connect, receive
from tests.integration.twistd import run_twistd

pytestmark = pytest.mark.hosts

ALLOW: Final = ["--allow", "0.0.0.0/0", "--allow", "::/0"]
LATE: Final = {"IPv4": "192.0.2.7", "IPv6": "2001:db8::7"}


@pytest.fixture
def host() -> Iterator[Host]:
    need("ip", root=True)
    wiring = Wiring()
    try:
        yield wiring.host("listening")
    finally:
        wiring.close()


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def assert_served(proxy: Proxy, *addresses: str, ports: Sequence[int] = (80,)) -> None:
    pool, server = Pool(proxy), Server(echo, proxy.monitor[0])
    try:
        pool.register(server.address)
        for place in product(addresses, ports):
            with connect(place) as client:
                client.sendall(b"hello")
                assert receive(client, 5) == b"hello"
    finally:
        pool.abandon()
        server.close()


BOTH: Final = [
    (("80", "[::]:80"), 0),
    (("[::]:80", "80"), 1),
    (("0.0.0.0:80", "[::]:80"), 1),
    (("[::]:80", "0.0.0.0:80"), 0),
    (("80", "0.0.0.0:80"), 0),
    (("127.0.0.1:80", "80", "[::1]:80"), 0),
]


@pytest.mark.parametrize(("listen", "bindv6only"), BOTH)
def test_both_families_may_be_named_in_any_order(
    listen: tuple[str, str], bindv6only: int, host: Host, tmp_path: Path
) -> None:
    host.write("/proc/sys/net/ipv6/bindv6only", f"{bindv6only}")

    def run() -> None:
        options = [word for text in listen for word in ("--listen", text)]
        with Proxy(tmp_path, *options, *ALLOW) as proxy:
            assert_served(proxy, LOOPBACK, "::1")
            assert failures(proxy.log) == []

    run_inside(host, run)


def test_a_port_that_is_named_twice_is_one_line(host: Host, tmp_path: Path) -> None:
    done = run_twistd(tmp_path, "rproxy", "--listen", "80", "--listen", "80", *ALLOW, prefix=host.prefix)
    assert (done.returncode, done.stderr) == (1, "twistd rproxy: --listen 80: this port is given twice\n")


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("family", LATE)
def test_an_address_that_is_not_there_yet_is_listened_on(family: str, carrier: str, host: Host, tmp_path: Path) -> None:
    late = LATE[family]
    where = bracketed(late)
    options = ["--listen", f"{where}:80", "--monitor", f"{where}:5555", *carrier_options(carrier), *ALLOW]
    options += ["--listen", f"tcp{6 if ':' in late else ''}:81:interface={late.replace(':', chr(92) + ':')}"]
    if carrier == "portable":
        done = run_twistd(tmp_path, "rproxy", *options, prefix=host.prefix)
        assert done.returncode == 1
        assert "Cannot assign requested address" in done.stdout + done.stderr

    def run() -> None:
        with Proxy(tmp_path, *options, "--freebind") as proxy:
            host.output("ip", "address", "add", late, "dev", "lo")
            agent = FakeAgent((late, 5555), 8000)
            poll(lambda: proxy.state((late, 8000)) == "up", READY_S, "it is up")
            agent.close()
            poll(lambda: not proxy.backends(), READY_S, "it is gone")
            assert_served(proxy, late, ports=[80, 81])
            assert failures(proxy.log) == []

    run_inside(host, run)


def test_the_queue_is_long_for_twisteds_strings_too_unless_they_say_otherwise(host: Host, tmp_path: Path) -> None:
    need("ss")
    listen = {80: "80", 81: "tcp:81", 82: "tcp6:82", 83: "haproxy:tcp:83", 84: "tcp:84:backlog=7"}
    allowed = int(host.output("cat", "/proc/sys/net/core/somaxconn"))

    def run() -> None:
        with Proxy(tmp_path, *(word for text in listen.values() for word in ("--listen", text)), *ALLOW):
            told = subprocess.run([*host.prefix, "ss", "-ltnH"], capture_output=True, text=True, check=True).stdout
            queues = {int(line.split()[3].rpartition(":")[2]): int(line.split()[2]) for line in told.splitlines()}
            assert {port: queues[port] for port in listen} == {
                port: 7 if port == 84 else min(4096, allowed) for port in listen
            }

    run_inside(host, run)
