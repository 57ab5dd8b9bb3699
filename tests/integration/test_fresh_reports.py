"""Reports of real agents: fresh while clients come, and asked for as seldom as ever while none do."""

from __future__ import annotations

import time
from typing import Final

import pytest

from rproxy.net.addresses import Address
from tests.integration.agents import serve, start_agent, wait_until_up
from tests.integration.conftest import Starter
from tests.integration.proxies import Proxy
from tests.integration.sockets import connect, receive

AGENTS: Final = 2
CLIENTS_S: Final = 20.0
BUSY_S: Final = 3.0
FRESHNESS_S: Final = 0.1
OLD_S: Final = 1.0
"""Beside other busy processes; no report is as young as this for long without probes on demand."""
SETTLED_S: Final = 1.5
"""After the last client; a second of it may see probes."""
IDLE_S: Final = 2.0


def visit(proxy: Proxy, seconds: float) -> None:
    """Clients come at `CLIENTS_S` a second."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        with connect(proxy.address) as client:
            assert receive(client, 2) == b"hi"
        time.sleep(max(now + 1 / CLIENTS_S - time.monotonic(), 0))


def on_demand(proxy: Proxy) -> int:
    counted: int = proxy.status()["counters"]["probes"]["on_demand"]
    return counted


def ages(proxy: Proxy) -> list[float]:
    return [row["last_seen_s"] for row in proxy.backends().values()]


def with_agents(start: Starter, *options: str) -> tuple[Proxy, list[Address]]:
    """A proxy with services whose agents are processes of their own."""
    proxy = start.proxy(*options)
    services = [serve(start, b"hi") for _ in range(AGENTS)]
    for service in services:
        start_agent(start, proxy, service)
    wait_until_up(proxy, *services)
    return proxy, services


@pytest.mark.alone
def test_while_clients_come_each_agent_is_asked_ten_times_a_second_and_not_afterwards(start: Starter) -> None:
    proxy, services = with_agents(start)
    assert on_demand(proxy) == 0
    began = time.monotonic()
    visit(proxy, BUSY_S)
    elapsed_s = time.monotonic() - began
    assert max(ages(proxy)) < OLD_S
    asked = on_demand(proxy) / len(services) / elapsed_s
    assert 0.5 / FRESHNESS_S < asked <= 1.1 / FRESHNESS_S, f"{asked:.1f} a second"
    time.sleep(SETTLED_S)
    settled = on_demand(proxy)
    time.sleep(IDLE_S)
    assert on_demand(proxy) == settled
    visit(proxy, 0.5)
    assert on_demand(proxy) > settled


def test_with_freshness_off_agents_are_asked_at_their_interval_only(start: Starter) -> None:
    proxy, _ = with_agents(start, "--freshness", "off")
    visit(proxy, 1.0)
    assert on_demand(proxy) == 0
