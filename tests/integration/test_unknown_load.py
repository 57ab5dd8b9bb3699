"""Agents that cannot tell all that is asked, among such that can; and agents of the protocol's first edition."""

from __future__ import annotations

import socket
from functools import partial

import pytest

from rproxy.agent.sampler import Load
from tests.integration.agents import serve, start_agent, wait_until_up
from tests.integration.conftest import Starter
from tests.integration.fake_agents import FakeAgent
from tests.integration.polling import poll
from tests.integration.proxies import Proxy
from tests.integration.sockets import connect, receive

CLIENTS = 60
SLOW_START_S = 20
"""Well beyond the time after which none of them is given less than its weight."""


@pytest.mark.parametrize(
    ("reported", "blind"),
    [
        ("cpu=10,memory=10,tcp=200", Load(None, None, None)),
        ("cpu=10,memory=10,tcp=200", Load(10, 10, None)),
        ("cpu=90,memory=90,tcp=20", Load(None, None, None)),
        ("cpu=0,memory=0,tcp=0", Load(None, None, None)),
    ],
    ids=["all of its figures, others busy", "its connections", "all, others saturated", "all, others idle"],
)
def test_one_that_cannot_tell_its_load_gets_a_share_and_not_all(start: Starter, reported: str, blind: Load) -> None:
    """That one is of the first edition, which does not know of tags; the others are not."""
    proxy = start.proxy()
    known = [serve(start, b"known") for _ in range(2)]
    for service in known:
        start_agent(start, proxy, service, "--report", reported)
    unknown = serve(start, b"blind")
    agent = FakeAgent(proxy.monitor, unknown[1], blind)
    start.closing(partial(agent.close, unregister=False))
    services = [*known, unknown]
    wait_until_up(proxy, *services)
    poll(lambda: all(proxy.backends()[each]["share"] == 1 for each in services), SLOW_START_S, "no slow start")
    row = proxy.backends()[unknown]
    assert [row["tcp"], row["cpu"], row["memory"]] == [blind.tcp, blind.cpu, blind.memory]
    words = [word for word, _ in (visit(start, proxy) for _ in range(CLIENTS))]
    assert 3 <= words.count(b"blind") <= CLIENTS / 2


def visit(start: Starter, proxy: Proxy) -> tuple[bytes, socket.socket]:
    """A client that stays: what it was greeted with."""
    client = connect(proxy.address)
    start.closing(client.close)
    return receive(client, 5), client
