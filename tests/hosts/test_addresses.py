"""Hosts with several addresses answer from the one that was asked, in both families."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.hosts import without_ipv6
from tests.hosts.net import PORT, Host, ip
from tests.hosts.system import POLL_S, System, kill
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy

pytestmark = pytest.mark.hosts

VIP: Final = "10.1.1.100"
VIP6: Final = "fd00:10:1:1::100"
SECOND: Final = "10.2.2.10"
MODES: Final = ["plain", "keyed"]
VISITOR: Final = [sys.executable, "-c", "import socket, sys; socket.create_connection((sys.argv[1], 80)).recv(1)"]
"""Connects, and says nothing."""


def add(host: Host, address: str, port: str = PORT) -> None:
    """Give `host` one more address, as keepalived does."""
    more = ["nodad"] if ":" in address else []
    ip("-n", host.namespace, "address", "add", f"{address}/{64 if more else 24}", "dev", port, *more)


def remove(host: Host, address: str) -> None:
    ip("-n", host.namespace, "address", "del", f"{address}/{64 if ':' in address else 24}", "dev", PORT)


def start_proxy(system: System, mode: str, folder: Path, *options: str) -> list[str]:
    """On every address. Returns the options of agents that fit it."""
    if mode == "plain":
        system.start_proxy("--allow", "::/0", *options, allow="0.0.0.0/0")
        return []
    master = str(Keys(folder).master("master"))
    system.start_proxy("--keyring", master, *options, allow="")
    return ["--keyring", master]


def row(system: System, address: str) -> dict[str, Any]:
    return next((row for row in system.status()["backends"] if row["address"] == address), {})


def wait_until_up(system: System, address: str) -> None:
    poll(lambda: row(system, address).get("state") == "up", READY_S, f"{address} is up", every_s=POLL_S)


def refused(system: System) -> int:
    """Registrations of what leads back to the proxy."""
    count: int = system.status()["counters"]["dropped"].get("own-listener", 0)
    return count


def assert_stays_up(system: System, address: str, answers: int = 3) -> None:
    """So many more probes are answered."""
    seen: set[float] = set()

    def answered() -> bool:
        told = row(system, address)
        assert told["state"] == "up", told
        seen.add(told["rtt_ms"])
        return len(seen) > answers

    poll(answered, READY_S, f"{address} answers", every_s=POLL_S)


@pytest.mark.parametrize("mode", MODES)
def test_agents_that_know_the_proxy_by_another_address_than_its_routes_come_up(
    mode: str, system: System, tmp_path: Path
) -> None:
    one, two = system.network.servers
    proxy = system.network.proxy
    add(proxy, VIP)
    add(proxy, VIP6)
    options = start_proxy(system, mode, tmp_path, "--probe-interval", "0.5")
    system.start_agent(one, *options, proxy=VIP)
    system.start_agent(two, *options, proxy=f"[{VIP6}]")
    wait_until_up(system, one.address)
    wait_until_up(system, two.address6)
    assert_stays_up(system, one.address)
    assert system.status()["counters"]["send_errors"] == {}


def test_an_agent_that_reaches_the_proxys_second_interface_comes_up(system: System) -> None:
    """By the router there, and back without it."""
    one, _ = system.network.servers
    ip(
        *("link", "add", "eth1", "netns", system.network.proxy.namespace, "type", "veth"),
        *("peer", "name", "servidor3-eth1", "netns", system.network.switch.namespace),
    )
    ip("-n", system.network.switch.namespace, "link", "set", "servidor3-eth1", "master", "far", "up")
    add(system.network.proxy, SECOND, "eth1")
    ip("-n", system.network.proxy.namespace, "link", "set", "eth1", "up")
    start_proxy(system, "plain", Path())
    system.start_agent(one, proxy=SECOND)
    wait_until_up(system, one.address)


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_answers_from_the_address_that_it_was_asked_at(mode: str, system: System, tmp_path: Path) -> None:
    """It registered from one that was then its route's, and is not any more."""
    one, _ = system.network.servers
    second, proxy = "10.1.1.101", system.network.proxy.address
    add(one, second)
    ip("-n", one.namespace, "route", "add", proxy, "dev", PORT, "src", second)
    options = start_proxy(system, mode, tmp_path, "--probe-interval", "0.5")
    system.start_agent(one, *options, interval_s=300)
    wait_until_up(system, second)
    ip("-n", one.namespace, "route", "del", proxy)
    assert_stays_up(system, second)


def test_an_agent_of_one_link_only_comes_up(system: System) -> None:
    """Its own address is fe80::…; the proxy's is not."""
    one, _ = system.network.servers
    ip("-n", one.namespace, "address", "flush", "dev", PORT, "scope", "global")
    ip("-n", one.namespace, "-6", "route", "add", "fd00:10:1:1::/64", "dev", PORT)
    start_proxy(system, "plain", Path())
    system.start_agent(one, proxy=f"[{system.network.proxy.address6}]")

    def is_up() -> bool:
        return any(row["address"].startswith("fe80::") and row["state"] == "up" for row in system.status()["backends"])

    poll(is_up, READY_S, "it is up", every_s=POLL_S)


def test_an_address_that_moves_takes_its_agents_along(system: System, tmp_path: Path) -> None:
    """As keepalived moves one, to a second proxy; the first one lives on, and loses them."""
    one, _ = system.network.servers
    first, second = system.network.proxy, system.network.router
    add(first, VIP)
    start_proxy(system, "plain", tmp_path, "--probe-interval", "0.5", "--liveness", "2")
    options = ["--listen", "80", "--monitor", "5555", "--admin", "127.0.0.1:8081", "--allow", "0.0.0.0/0"]
    with Proxy(tmp_path, *options, prefix=second.prefix) as standby:
        system.start_agent(one, proxy=VIP, interval_s=1)
        wait_until_up(system, one.address)
        assert standby.backends() == {}
        remove(first, VIP)
        add(second, VIP)
        ip("-n", one.namespace, "neigh", "flush", "all")
        poll(lambda: standby.state((one.address, 80)) == "up", READY_S, "it is up there", every_s=POLL_S)
        poll(lambda: row(system, one.address)["state"] == "down", READY_S, "it is down here", every_s=POLL_S)
        assert system.status()["counters"]["send_errors"]["source-gone"] > 0
        assert failures(system.proxy.log + standby.log) == []


@pytest.mark.parametrize("in_use", [False, True], ids=["idle", "with a session"])
def test_a_back_end_whose_address_becomes_ours_is_none_any_more(in_use: bool, system: System) -> None:
    """Its service would be our own listener from then on, also for an agent of ours that registers it meanwhile."""
    one, _ = system.network.servers
    proxy = system.network.proxy
    add(one, VIP)
    ip("-n", one.namespace, "route", "add", proxy.address, "dev", PORT, "src", VIP)
    start_proxy(system, "plain", Path(), "--probe-interval", "0.5", "--on-down", "keep")
    system.start_agent(one, "--check", "none")
    wait_until_up(system, VIP)
    with ExitStack() as stack:
        if in_use:
            system.start_httpd(one, VIP)
            visitor = subprocess.Popen([*system.network.client.prefix, *VISITOR, proxy.address])
            stack.callback(kill, visitor)
            poll(lambda: row(system, VIP)["connections"] == 1, READY_S, "it has a session", every_s=POLL_S)
        remove(one, VIP)
        add(proxy, VIP)
        gone = "departed" if in_use else "forgotten"
        system.proxy.logged(rf"back-end (10\.1\.1\.100:80): \w+ -> {gone} \(leads back to this proxy")
        system.start_agent(proxy, "--port", "0", proxy=VIP)
        poll(lambda: refused(system) >= 1, READY_S, "its agent is refused", every_s=POLL_S)
        assert row(system, VIP).get("state") == ("departed" if in_use else None)
    assert failures(system.proxy.log) == []


@pytest.mark.parametrize("mode", ["as usual", "bindv6only", "disable_ipv6", "no IPv6"])
@pytest.mark.parametrize("carrier", ["splice", "portable"])
def test_a_port_without_a_host_is_on_every_address_of_the_families_there_are(
    carrier: str, mode: str, system: System
) -> None:
    one, two = system.network.servers
    proxy, client = system.network.proxy, system.network.client
    how: dict[str, Sequence[str]] = {}
    both = mode in ("as usual", "bindv6only")
    if mode == "bindv6only":
        proxy.write("/proc/sys/net/ipv6/bindv6only", "1")
    if mode == "disable_ipv6":
        proxy.write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")
    if mode == "no IPv6":
        how = {"wrapper": [sys.executable, without_ipv6.__file__]}
    system.start_proxy("--allow", "::/0", "--carrier", carrier, "--trace", allow="0.0.0.0/0", **how)
    system.start_httpd(one)
    system.start_agent(one)
    wait_until_up(system, one.address)
    assert client.output("wget", "-qO-", "-T5", f"http://{proxy.address}/") == b"servidor1\n"
    if both:
        system.start_agent(two, proxy=f"[{proxy.address6}]")
        wait_until_up(system, two.address6)
        system.start_httpd(two, two.address6)
        for _ in range(2):
            assert one.output("wget", "-qO-", "-T5", f"http://[{proxy.address6}]/") in (b"servidor1\n", b"servidor2\n")
    assert "::ffff:" not in system.proxy.log
    assert failures(system.proxy.log) == []
