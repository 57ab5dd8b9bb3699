"""The report's tests (chapter 5): its hosts, its addresses, its programs."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.hosts.system import System

pytestmark = pytest.mark.hosts

FETCHES = 10
PATIENCE_S = 60.0
POLICIES = ("report", "expected-delay")
"""The report's, and the default one."""


def test_1_a_file_is_the_same_directly_and_through_the_proxy(system: System) -> None:
    server, _ = system.network.servers
    system.start_httpd(server)
    system.start_proxy()
    system.start_agent(server)
    system.wait_until_up(server)
    for path in ("", "noise"):
        assert system.fetch(system.network.proxy, path) == system.fetch(server, path)


@pytest.mark.parametrize("policy", POLICIES)
def test_2a_ten_and_more_fetches_spread_over_both_servers(system: System, policy: str) -> None:
    """Ten at a time, so that open connections count. How many more depends on what else keeps this machine busy."""
    system.start_all(proxy=["--policy", policy])
    served: Counter[str] = Counter()
    started = time.monotonic()
    with ThreadPoolExecutor(FETCHES) as clients:
        while len(served) < 2 and time.monotonic() - started < PATIENCE_S:
            served.update(clients.map(lambda _: system.served_by(), range(FETCHES)))
    assert set(served) == {server.name for server in system.network.servers}, served
    assert {server.name: system.backend(server)["total"] for server in system.network.servers} == served


@pytest.mark.parametrize("policy", POLICIES)
def test_2b_a_server_that_reports_full_load_gets_no_client_though_it_is_up(system: System, policy: str) -> None:
    idle, loaded = system.network.servers
    system.start_all(second=["--report", "cpu=100,memory=100,tcp=100"], proxy=["--policy", policy])
    assert [system.served_by() for _ in range(FETCHES)] == [idle.name] * FETCHES
    row = system.backend(loaded)
    assert (row["state"], row["cpu"], row["memory"], row["tcp"], row["total"]) == ("up", 100, 100, 100, 0)
