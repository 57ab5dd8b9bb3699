"""The network carries TCP and no UDP: the proxy does not take that for the death of its back-ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.conftest import need
from tests.hosts.net import Host
from tests.hosts.system import POLL_S, System
from tests.integration.polling import READY_S, poll

pytestmark = pytest.mark.hosts

FAST: Final = ("--probe-interval", "1", "--policy", "round-robin")
"""Options of the proxy: three misses come fast, and every eligible back-end gets clients."""
FEW: Final = 4
"""Clients at once."""


def test_while_udp_is_blocked_everything_that_tcp_does_not_refuse_is_used(system: System) -> None:
    """Two servers; and a host that has an agent, but no service, which is no more used than ever."""
    need("nft", root=True)
    network = system.network
    one, two = network.servers
    unserved = network.router
    system.start_all(proxy=FAST)
    network.block_udp(two)
    wait_for(system, "down", two)
    assert not system.status()["panic"]
    assert served(system, lambda so_far: so_far.total() >= 3 * FEW) == {one.name}

    system.start_agent(unserved)
    system.wait_until_up(unserved)
    served(system, lambda _: system.backend(unserved)["state"] == "down")
    network.block_udp(one, two, unserved)
    wait_for(system, "down", one, two, unserved)
    assert system.status()["panic"]
    tried = redispatches(system)
    assert served(system, both) == {one.name, two.name}
    assert redispatches(system) <= tried + 1

    network.block_udp()
    wait_for(system, "up", one, two)
    assert not system.status()["panic"]
    assert served(system, both) == {one.name, two.name}


def wait_for(system: System, state: str, *hosts: Host) -> None:
    def all_are() -> bool:
        return all(system.backend(host).get("state") == state for host in hosts)

    poll(all_are, READY_S, f"{state}: {', '.join(host.name for host in hosts)}", every_s=POLL_S)


def served(system: System, until: Callable[[Counter[str]], bool]) -> set[str]:
    """The servers that served clients, `FEW` at a time, until `until` returned True. No client may fail."""
    so_far: Counter[str] = Counter()

    def are_enough() -> bool:
        so_far.update(clients.map(lambda _: system.served_by(), range(FEW)))
        return until(so_far)

    with ThreadPoolExecutor(FEW) as clients:
        poll(are_enough, READY_S, "enough clients are served", every_s=POLL_S)
    return set(so_far)


def both(so_far: Counter[str]) -> bool:
    return len(so_far) == 2 and so_far.total() >= 3 * FEW


def redispatches(system: System) -> int:
    count: int = system.status()["counters"]["redispatches"]
    return count
