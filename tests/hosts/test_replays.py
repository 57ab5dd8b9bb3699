"""Old datagrams of every agent, sent again by the thousand to a proxy that was just restarted and knows nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import IO, Final

import pytest

from tests.hosts.net import ip
from tests.hosts.system import POLL_S, System, kill
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.twistd import environment

pytestmark = [pytest.mark.hosts, pytest.mark.alone]  # the replays take a core, and the proxy the other

AGENTS: Final = 24
NETWORK: Final = "10.8.0.0/24"
ADDRESSES: Final = [str(IPv4Address("10.8.0.1") + number) for number in range(AGENTS)]
RATE: Final = 10_000
"""Datagrams a second."""
WHOLE_S: Final = 15.0
KNOWN_S: Final = 3.0
"""The same with a state file: a second on an idle machine."""
LINES_MAX: Final = 2 * AGENTS + 12


@contextmanager
def running(system: System, module: str, *arguments: str) -> Iterator[IO[bytes]]:
    """A module of the tests on the router, which all these addresses are on; what it writes to stdout."""
    command = [*system.network.router.prefix, sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def up(system: System) -> int:
    return sum(row["state"] == "up" for row in system.status()["backends"])


def test_ten_thousand_replays_a_second_do_not_keep_a_pool_out_of_a_restarted_proxy(
    system: System, tmp_path: Path
) -> None:
    keys = str(Keys(tmp_path).master("master"))
    proxy, router = system.network.proxy.address, system.network.router
    ip("-n", router.namespace, "route", "add", "local", NETWORK, "dev", "lo")
    system.start_proxy("--keyring", keys, allow="")
    with running(system, "tests.hosts.many_agents", proxy, keys, *ADDRESSES):
        poll(lambda: up(system) == AGENTS, READY_S, "all are up", every_s=POLL_S)
        kill(system.proxy)
        with running(system, "tests.hosts.replayer", proxy, keys, f"{RATE}", *ADDRESSES) as sent:
            assert sent.readline()
            system.start_proxy("--keyring", keys, allow="")
            restarted = time.monotonic()
            poll(lambda: up(system) == AGENTS, WHOLE_S, "all are up again", every_s=POLL_S)
            print(f"whole again after {time.monotonic() - restarted:.1f} s")
            time.sleep(2)
            assert up(system) == AGENTS
            told = int(sent.readline())
        counters = system.status()["counters"]
        assert counters["dropped"]["rate-limited"] > RATE
        assert counters["dropped"].get("seal", 0) == 0
        assert told >= RATE
    assert len(system.proxy.log.splitlines()) <= LINES_MAX
    assert failures(system.proxy.log) == []


def test_what_the_state_file_knows_is_back_at_once_whatever_is_replayed(system: System, tmp_path: Path) -> None:
    """Also a host for which a replayed registration arrived before its own saved row was probed."""
    keys = str(Keys(tmp_path).master("master"))
    proxy, router = system.network.proxy.address, system.network.router
    ip("-n", router.namespace, "route", "add", "local", NETWORK, "dev", "lo")
    options = ["--keyring", keys, "--state-file", str(tmp_path / "state")]
    system.start_proxy(*options, allow="")
    with running(system, "tests.hosts.many_agents", proxy, keys, *ADDRESSES):
        poll(lambda: up(system) == AGENTS, READY_S, "all are up", every_s=POLL_S)
        system.proxy.stop()
        with running(system, "tests.hosts.replayer", proxy, keys, f"{RATE}", *ADDRESSES) as sent:
            assert sent.readline()
            system.start_proxy(*options, allow="")
            restarted = time.monotonic()
            poll(lambda: up(system) == AGENTS, KNOWN_S, "all are up again", every_s=POLL_S)
            print(f"whole again after {time.monotonic() - restarted:.1f} s")
    assert failures(system.proxy.log) == []
