"""Agents, servers, hosts and the proxy die and come back, with the default timing."""

from __future__ import annotations

import time
from typing import Final

import attrs
import pytest

from tests.hosts.net import Host
from tests.hosts.system import POLL_S, System, kill, last_untrue
from tests.integration.polling import poll

pytestmark = pytest.mark.hosts

UNCHOSEN_S: Final = 8.0
"""No client is given to a back-end for longer after it has become silent."""
EJECTED_S: Final = 10.0
"""A probe interval and a tenth, the timeout, two more probes, and some time for the machine."""
WHOLE_S: Final = 12.0
CONNECT_TIMEOUT_S: Final = 2.0
CONNECT_TOTAL_S: Final = 5.0
BACK_S: Final = 15.0
LATE_S: Final = 5.0
"""How long after its agents the proxy is started."""

IDLE: Final = ("--report", "cpu=0,memory=0,tcp=0")
BUSY: Final = ("--report", "cpu=100,memory=100,tcp=100")


@attrs.frozen
class Pair:
    """Two servers; the preferred one, to which every client goes while it is well, is the one to fail."""

    preferred: Host
    other: Host


@pytest.fixture
def pair(system: System) -> Pair:
    other, preferred = system.network.servers
    system.start_all(BUSY, IDLE)
    assert {system.served_by() for _ in range(3)} == {preferred.name}
    return Pair(preferred, other)


@attrs.frozen
class Fetch:
    server: str
    at_s: float
    """When it began, counted from the fault."""
    took_s: float


def fetches_until_down(system: System, host: Host) -> list[Fetch]:
    """Fetch, one client after the other, until the proxy takes `host` down, which must be in time. None may fail."""
    fetches: list[Fetch] = []
    fault = time.monotonic()

    def is_down() -> bool:
        began = time.monotonic()
        fetches.append(Fetch(system.served_by(), began - fault, time.monotonic() - began))
        return bool(system.backend(host).get("state") == "down")

    may_serve_s = last_untrue(is_down, EJECTED_S)
    assert may_serve_s <= EJECTED_S, f"{host.name} might get clients {may_serve_s:.1f} s after the fault"
    return fetches


def test_a_server_whose_agent_was_killed_gets_no_client_until_an_agent_is_back(system: System, pair: Pair) -> None:
    kill(system.agents[pair.preferred])
    fetches = fetches_until_down(system, pair.preferred)
    assert max(fetch.at_s for fetch in fetches if fetch.server == pair.preferred.name) < UNCHOSEN_S
    assert {system.served_by() for _ in range(5)} == {pair.other.name}
    assert system.fetch(pair.preferred).decode().strip() == pair.preferred.name
    system.start_agent(pair.preferred, *IDLE)
    poll(
        lambda: system.served_by() == pair.preferred.name, BACK_S, f"{pair.preferred.name} serves again", every_s=POLL_S
    )


def test_no_client_fails_when_a_server_dies_with_its_agent(system: System, pair: Pair) -> None:
    kill(system.httpds[pair.preferred])
    kill(system.agents[pair.preferred])
    fetches = fetches_until_down(system, pair.preferred)
    assert {fetch.server for fetch in fetches} == {pair.other.name}
    assert system.status()["counters"]["redispatches"] > 0


def test_no_client_fails_when_a_whole_host_vanishes(system: System, pair: Pair) -> None:
    """Its SYNs are dropped: at worst a client waits for the connect timeout."""
    pair.preferred.cut()
    fetches = fetches_until_down(system, pair.preferred)
    assert {fetch.server for fetch in fetches} == {pair.other.name}
    slowest_s = max(fetch.took_s for fetch in fetches)
    assert CONNECT_TIMEOUT_S <= slowest_s < CONNECT_TOTAL_S
    assert system.status()["counters"]["redispatches"] > 0


def test_a_proxy_killed_and_started_again_has_its_pool_back_in_time(system: System) -> None:
    system.start_all()
    kill(system.proxy)
    system.start_proxy()
    assert_whole_in_time(system)


def test_agents_started_before_the_proxy_are_in_its_pool_in_time(system: System) -> None:
    for server in system.network.servers:
        system.start_httpd(server)
        system.start_agent(server)
    time.sleep(LATE_S)
    system.start_proxy()
    assert_whole_in_time(system)


def assert_whole_in_time(system: System) -> None:
    """Counted from when the proxy is ready; the agents are the same all along."""
    partial_s = last_untrue(lambda: system.are_up(*system.network.servers), 2 * WHOLE_S)
    assert partial_s <= WHOLE_S, f"the pool was not whole {partial_s:.1f} s after the proxy was ready"
    assert all(agent.running for agent in system.agents.values())
    system.served_by()
