"""Several proxies know of each other's sessions by what the agent of a back-end passes on."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from rproxy.net.addresses import Address, written
from rproxy.wire.pdu import Register
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import serve, wait_until_up
from tests.integration.conftest import Starter
from tests.integration.datagrams import PLAIN, Mode, Peer
from tests.integration.fake_proxies import FakeProxy
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.sockets import connect, receive
from tests.integration.twistd import REACTORS, Twistd


def agent_of(start: Starter, service: Address, *proxies: Address, options: tuple[str, ...] = (), **how: str) -> Twistd:
    told = [word for proxy in proxies for word in ("--proxy", written(proxy))]
    told += ["--port", "0", "--service-port", str(service[1]), "--check", "none", *options]
    return start.elsewhere().twistd("rproxy-agent", *told, **how)


def told(proxy: Proxy) -> str:
    """What the last answer said of the others' sessions, as a trace shows it."""
    said = re.findall(r"ProbeResponse\(.*others=(\w+)\)", proxy.log)
    return said[-1] if said else ""


def wait_until_told(proxy: Proxy, others: int) -> None:
    poll(lambda: told(proxy) == str(others), READY_S, f"{others} others")


def open_sessions(stack: ExitStack, proxy: Proxy, number: int) -> None:
    for _ in range(number):
        assert receive(stack.enter_context(connect(proxy.address)), 5) == b"hello"


@pytest.mark.parametrize("reactor", REACTORS)
def test_two_proxies_know_each_others_sessions_also_where_one_has_two_names(start: Starter, reactor: str) -> None:
    service = serve(start, b"hello")
    proxies = [start.elsewhere().proxy("--trace", "--probe-interval", "0.1", reactor=reactor) for _ in range(2)]
    first, second = proxies
    alias = "localhost", first.monitor[1]
    agent = agent_of(start, service, first.monitor, alias, second.monitor, reactor=reactor)
    for proxy in proxies:
        wait_until_up(proxy, service)
        wait_until_told(proxy, 0)
    with ExitStack() as clients:
        open_sessions(clients, first, 3)
        wait_until_told(second, 3)
        assert told(first) == "0"
        open_sessions(clients, second, 2)
        wait_until_told(first, 2)
        assert told(second) == "3"
    for proxy in proxies:
        wait_until_told(proxy, 0)
    assert [failures(process.log) for process in (agent, *proxies)] == [[], [], []]


def test_a_proxy_that_is_named_by_two_of_its_addresses_is_not_told_its_own_sessions(start: Starter) -> None:
    """It probes from the one that was registered with last, which changes all the time here."""
    service = serve(start, b"hello")
    proxy = start.proxy("--monitor", "0.0.0.0:0", "--allow", "127.0.0.0/8", "--trace", "--probe-interval", "0.1")
    port = proxy.monitor[1]
    addresses: list[Address] = [(LOOPBACK, port), ("127.0.0.2", port)]
    agent = agent_of(start, service, *addresses, options=("--interval", "0.3", "--trace"))
    wait_until_up(proxy, service)
    with ExitStack() as clients:
        open_sessions(clients, proxy, 3)
        for address in 2 * addresses:
            seen = agent.log.count(f">> [{written(address)}] ProbeRequest")
            poll(
                lambda address=address, seen=seen: agent.log.count(f">> [{written(address)}] ProbeRequest") > seen,  # type: ignore[misc]
                READY_S,
                f"{address} probes",
            )
    assert set(re.findall(r"ProbeResponse\(.*others=(\w+)\)", proxy.log)) == {"None"}
    assert failures(agent.log) == failures(proxy.log) == []


@pytest.fixture(params=["plain", "keyed"])
def mode(request: pytest.FixtureRequest, tmp_path: Path) -> Mode:
    return PLAIN if request.param == "plain" else Mode.keyed(Keys(tmp_path).master("master"))


def test_what_each_says_reaches_the_others_and_a_first_edition_proxy_hears_and_says_nothing(
    start: Starter, mode: Mode
) -> None:
    proxies = [FakeProxy(Peer(mode)) for _ in range(3)]
    for proxy in proxies:
        start.closing(proxy.peer.close)
    agent = agent_of(start, (LOOPBACK, 80), *(proxy.peer.address for proxy in proxies), options=mode.options)
    for proxy in proxies:
        assert isinstance(proxy.peer.hear(), Register)
    first, second, old = proxies
    assert old.ask(0, None).others is None
    assert first.ask(1000, 3).others is None
    assert second.ask(2000, 40).others == 3
    assert old.ask(1, None).others == 43
    assert first.ask(1001, 0).others == 40
    assert second.ask(2001, None).others == 0
    assert first.ask(1002, 0).others is None
    assert failures(agent.log) == []
