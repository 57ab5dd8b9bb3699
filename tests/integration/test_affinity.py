"""Affinity: clients by their address, at real proxies."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from rproxy.net.addresses import Address
from tests.integration.agents import serve
from tests.integration.conftest import Starter, Variant, every_transport
from tests.integration.fake_agents import FakeAgent
from tests.integration.polling import READY_S, SOCKET_S, poll
from tests.integration.proxies import Proxy
from tests.integration.sockets import receive

HOSTS: Final = [f"127.0.1.{number}" for number in range(1, 31)]
"""The clients' addresses."""

pytestmark = every_transport


def connect_from(host: str, proxy: Proxy) -> tuple[socket.socket, bytes]:
    """A client at this address, and which back-end greets it."""
    client = socket.socket()
    client.settimeout(SOCKET_S)
    client.bind((host, 0))
    client.connect(proxy.address)
    return client, receive(client, 1)


def mapping(proxy: Proxy) -> list[bytes]:
    found = []
    for host in HOSTS:
        client, word = connect_from(host, proxy)
        client.close()
        found.append(word)
    return found


@pytest.fixture
def services(start: Starter) -> dict[bytes, Address]:
    return {word: serve(start, word) for word in (b"a", b"b", b"c")}


def with_affinity(start: Starter, variant: Variant, services: dict[bytes, Address]) -> tuple[Proxy, list[FakeAgent]]:
    file = Path(start.folder) / "rproxy.toml"
    file.write_text('[[service]]\nlisten = "127.0.0.1:0"\naffinity = "source"\n')
    proxy = start.elsewhere().proxy("--config", str(file), *variant.options, reactor=variant.reactor)
    agents = [FakeAgent(proxy.monitor, address[1]) for address in services.values()]
    for agent in agents:
        start.closing(partial(agent.close, unregister=False))
    poll(lambda: all(proxy.state(address) == "up" for address in services.values()), READY_S, "all are up")
    return proxy, agents


def test_clients_keep_their_back_end_in_every_proxy_and_only_those_of_a_lost_one_move(
    start: Starter, variant: Variant, services: dict[bytes, Address]
) -> None:
    proxy, agents = with_affinity(start, variant, services)
    before = mapping(proxy)
    assert set(before) == set(services)
    assert mapping(proxy) == before
    other, _ = with_affinity(start, variant, services)
    assert mapping(other) == before
    agents[0].drain()
    poll(lambda: proxy.state(services[b"a"]) == "draining", READY_S, "it drains")
    after = mapping(proxy)
    assert b"a" not in after
    assert [word for word in before if word != b"a"] == [
        word for word, earlier in zip(after, before, strict=True) if earlier != b"a"
    ]
    agents[0].drain(False)
    poll(lambda: proxy.state(services[b"a"]) == "up", READY_S, "it is up again")
    assert mapping(proxy) == before


def test_a_browsers_connections_stay_together_and_a_hot_client_is_spread(
    start: Starter, variant: Variant, services: dict[bytes, Address]
) -> None:
    proxy, _ = with_affinity(start, variant, services)
    clients = [connect_from(HOSTS[0], proxy) for _ in range(90)]
    assert len({word for _, word in clients[:8]}) == 1
    words = [word for _, word in clients]
    assert max(words.count(word) for word in services) <= 38  # 1.25 of 30
    for client, _ in clients:
        client.close()
