"""Keyed monitoring between hosts, where addresses differ: an agent's key is worth something at its own address only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import need
from tests.hosts.net import Host
from tests.hosts.system import POLL_S, System, kill
from tests.hosts.test_failures import assert_whole_in_time
from tests.integration.keys import Keys
from tests.integration.polling import READY_S, poll

pytestmark = pytest.mark.hosts

TRIED: Final = 3


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    keys = Keys(tmp_path)
    yield keys
    keys.assert_secret()


@pytest.fixture
def master(system: System, keys: Keys) -> Path:
    """The key file of the proxy, which runs."""
    master = keys.master("master")
    start_proxy(system, master)
    return master


def start_proxy(system: System, master: Path) -> None:
    """It accepts agents of both address families from anywhere."""
    system.start_proxy("--monitor", "[::]:5555", "--keyring", str(master), allow="")


def start_agent(system: System, host: Host, *options: str) -> None:
    system.start_httpd(host)
    system.start_agent(host, *options, interval_s=1)


def wait_until_tried(system: System) -> None:
    """Again and again, to come in with a key that does not fit."""

    def are_dropped() -> bool:
        dropped: dict[str, int] = system.status()["counters"]["dropped"]
        return dropped.get("seal", 0) >= TRIED

    poll(are_dropped, READY_S, "registrations are dropped", every_s=POLL_S)


def test_a_host_is_let_in_with_its_own_key_and_not_with_another_hosts_also_after_a_restart_of_the_proxy(
    system: System, keys: Keys, master: Path
) -> None:
    one, two = system.network.servers
    own = {host: str(keys.derived(host.name, master, host.address)) for host in (one, two)}
    start_agent(system, one, "--keyring", own[one])
    start_agent(system, two, "--keyring", own[one], "--advertise", one.address)
    wait_until_tried(system)
    assert system.are_up(one)
    assert not system.backend(two)
    kill(system.agents[two])
    system.start_agent(two, "--keyring", own[two])
    system.wait_until_up(two)
    kill(system.proxy)
    start_proxy(system, master)
    assert_whole_in_time(system)


def test_a_hosts_own_key_is_good_at_its_ipv6_address_and_at_no_other(system: System, keys: Keys, master: Path) -> None:
    one, two = system.network.servers
    own = keys.derived(one.name, master, one.address6)
    told = ["--keyring", str(own)]
    proxy = f"[{system.network.proxy.address6}]"
    system.start_httpd(one, one.address6)
    system.start_agent(one, *told, interval_s=1, proxy=proxy)
    system.start_agent(two, *told, interval_s=1, proxy=proxy)
    system.wait_until_up(one)
    wait_until_tried(system)
    assert [row["address"] for row in system.status()["backends"]] == [one.address6]
    assert system.served_by() == one.name


def test_an_agent_behind_nat_is_let_in_when_it_says_the_address_that_the_proxy_sees_or_has_its_key(
    system: System, keys: Keys, master: Path
) -> None:
    need("nft", root=True)
    inside, router = system.network.client, system.network.router
    system.network.translate(inside)
    start_agent(system, inside, "--keyring", str(master))
    wait_until_tried(system)
    assert system.status()["backends"] == []
    kill(system.agents[inside])
    system.start_agent(inside, "--keyring", str(master), "--advertise", router.address)
    system.wait_until_up(router)
    assert system.served_by() == inside.name
    system.agents[inside].stop()
    assert system.status()["backends"] == []
    system.start_agent(inside, "--keyring", str(keys.derived("inside", master, router.address)))
    system.wait_until_up(router)
