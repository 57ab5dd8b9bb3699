"""The report's tests (chapter 5): its hosts, its addresses, its programs."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.hosts.system import POLL_S, System

pytestmark = pytest.mark.hosts

FETCHES = 10
PATIENCE_S = 60.0


def test_1_a_file_is_the_same_directly_and_through_the_proxy(system: System) -> None:
    server, _ = system.network.servers
    system.start_httpd(server)
    system.start_proxy()
    system.start_agent(server)
    system.wait_until_up(server)
    for path in ("", "noise"):
        assert system.fetch(system.network.proxy, path) == system.fetch(server, path)


def test_2a_ten_and_more_fetches_spread_over_both_servers(system: System) -> None:
    """How many more depends on the load that the two report, which is this machine's and changes."""
    system.start_all()
    served: Counter[str] = Counter()
    started = time.monotonic()
    while served.total() < FETCHES or (len(served) < 2 and time.monotonic() - started < PATIENCE_S):
        served[system.served_by()] += 1
        time.sleep(POLL_S)
    assert set(served) == {server.name for server in system.network.servers}, served
    assert {server.name: system.backend(server)["total"] for server in system.network.servers} == served


def test_2b_a_server_that_reports_full_load_gets_no_client_though_it_is_up(system: System) -> None:
    idle, loaded = system.network.servers
    system.start_all(second=["--report", "cpu=100,memory=100,tcp=100"])
    assert [system.served_by() for _ in range(FETCHES)] == [idle.name] * FETCHES
    row = system.backend(loaded)
    assert (row["state"], row["cpu"], row["memory"], row["tcp"], row["total"]) == ("up", 100, 100, 100, 0)
