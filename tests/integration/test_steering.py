"""Operators steer a real proxy over HTTP: what they say outlasts agents and the proxy, and what they end is reset."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest

from rproxy.net.addresses import Address, written
from tests.integration.agents import greeting, serve, start_agent, wait_until_up
from tests.integration.conftest import BY_REPORT, Starter, Variant, every_carrier
from tests.integration.fake_agents import BUSY
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, READY_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.sockets import MB, digest, payload, receive, receive_all
from tests.integration.test_draining import FEW, Drained, greet, to_be_drained
from tests.integration.test_operators import ask
from tests.integration.test_restarts import again

TOKEN: Final = "a-token-of-24-characters"
SHED_S: Final = 3.0
"""20 sessions at 20 a second, a second before the first one, and a busy machine."""


def steered(folder: Path) -> tuple[str, str]:
    """The options of a proxy that can be steered."""
    path = folder / "operators.token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return "--admin-token-file", str(path)


def post(proxy: Proxy, path: str) -> dict[str, Any]:
    status, body = ask(proxy, "POST", path, Authorization=f"Bearer {TOKEN}")
    assert status == HTTPStatus.OK, body
    done: dict[str, Any] = json.loads(body)
    return done


def say(proxy: Proxy, backend: Address, word: str) -> dict[str, Any]:
    return post(proxy, f"/api/backends/default/{written(backend)}/{word}")


def row(proxy: Proxy, backend: Address) -> dict[str, Any]:
    return proxy.backends().get(backend, {})


def is_reset(sock: socket.socket) -> bool:
    """Whether it is reset, not ended."""
    try:
        receive_all(sock)
    except ConnectionResetError:
        return True
    return False


@pytest.fixture
def drained(variant: Variant, start: Starter) -> Drained:
    return to_be_drained(start.pool(*variant.options, *BY_REPORT, *steered(start.folder)))


@every_carrier
@pytest.mark.parametrize("word", ["drain", "maint"])
def test_a_word_keeps_clients_away_until_ready_whatever_becomes_of_the_agent(drained: Drained, word: str) -> None:
    proxy, backend = drained.pool.proxy, drained.preferred.address
    shown = {"drain": "draining", "maint": "maint"}[word]
    assert say(proxy, backend, word)["backend"]["state"] == shown
    drained.assert_clients_go_elsewhere()
    drained.assert_session_goes_on()
    drained.agent.close()
    drained.wait_until("departed")
    drained.assert_session_ends_in_order()
    assert say(proxy, backend, "kill")["sessions"] == FEW
    drained.wait_until(None)
    drained.pool.register(backend, state=shown)
    drained.assert_clients_go_elsewhere()
    say(proxy, backend, "ready")
    drained.wait_until("up")
    drained.assert_clients_come()


@every_carrier
def test_one_in_maintenance_that_goes_down_keeps_its_sessions_and_panics_nobody(
    variant: Variant, start: Starter
) -> None:
    pool = Pool(start.proxy(*variant.options, *BY_REPORT, *steered(start.folder), "--probe-interval", "0.5"))
    start.closing(pool.abandon)
    backend = pool.listen()
    pool.serve(greet, BUSY)
    client = pool.connect()
    server = backend.accept()
    say(pool.proxy, backend.address, "maint")
    pool.agent_of(backend.address).close(unregister=False)
    pool.proxy.logged("(-> down)")
    assert row(pool.proxy, backend.address)["state"] == "maint"
    assert not pool.proxy.status()["panic"]
    client.sendall(b"x")
    assert receive(server, 1) == b"x"


@pytest.mark.parametrize(("signum", "reactor"), [(signal.SIGTERM, "asyncio"), (signal.SIGKILL, "epoll")])
def test_words_outlast_the_proxy_where_there_is_a_state_file(
    start: Starter, signum: signal.Signals, reactor: str
) -> None:
    """The proxy is killed as soon as it has answered."""
    options = ("--state-file", str(start.folder / "state"), *steered(start.folder))
    proxy = start.proxy(*options, reactor=reactor)
    drained, weighed, other = (serve(start, word) for word in (b"drained", b"weighed", b"other"))
    agents = [start_agent(start, proxy, service) for service in (drained, weighed, other)]
    wait_until_up(proxy, drained, weighed, other)
    say(proxy, weighed, "weight?value=7")
    began = time.time()
    say(proxy, drained, "drain")
    proxy.stop(signum)
    proxy = again(start, proxy, *options, reactor=reactor)
    wait_until_up(proxy, weighed, other)
    poll(lambda: proxy.state(drained) == "draining", READY_S, "it drains")
    assert {row(proxy, each)["weight"] for each in (weighed, other)} == {7, 100}
    assert b"drained" not in {greeting(proxy) for _ in range(20)}
    proxy.logged(rf"in force as before, by an operator: .*default {re.escape(written(drained))} (drain)")
    status, body = ask(proxy, path=f"/api/explain?backend={written(drained)}")
    assert status == HTTPStatus.OK
    assert (
        f"draining since {time.strftime('%H:', time.localtime(began))}" in json.loads(body)["explanations"][0]["text"]
    )

    assert say(proxy, drained, "ready")["backend"]["state"] == "up"
    say(proxy, weighed, "weight")
    proxy.stop(signum)
    proxy = again(start, proxy, *options, reactor=reactor)
    wait_until_up(proxy, drained, weighed, other)
    assert "in force as before" not in proxy.log
    assert {each["weight"] for each in proxy.backends().values()} == {100}
    assert [failures(process.log) for process in (proxy, *agents)] == [[]] * 4


def test_a_word_outlasts_the_restart_of_the_agent_itself(start: Starter) -> None:
    proxy = start.proxy(*steered(start.folder))
    service = serve(start, b"hello")
    agent = start_agent(start, proxy, service)
    wait_until_up(proxy, service)
    say(proxy, service, "drain")
    for signum in (signal.SIGTERM, signal.SIGKILL):
        agent.stop(signum)
        if signum is signal.SIGTERM:
            poll(lambda: not proxy.backends(), READY_S, "it has gone")
        agent = start_agent(start, proxy, service)
        if signum is signal.SIGKILL:
            proxy.logged("(its agent was started again)")
        poll(lambda: proxy.state(service) == "draining", READY_S, "it drains")
    say(proxy, service, "ready")
    assert greeting(proxy) == b"hello"
    assert failures(proxy.log) == []


def sessions_of(proxy: Proxy) -> dict[int, int]:
    """By the client's port, the numbers of all sessions."""
    _, body = ask(proxy, path="/api/sessions")
    return {int(each["client"].rpartition(":")[2]): each["id"] for each in json.loads(body)["sessions"]}


@every_carrier
def test_a_session_that_is_killed_is_reset_on_both_sides_and_no_other_one(variant: Variant, start: Starter) -> None:
    pool = start.pool(*variant.options, *steered(start.folder))
    (client, server), (busy, source), (other, peer) = pool.links(3)
    numbers = sessions_of(pool.proxy)
    number, busy_number = (numbers[each.getsockname()[1]] for each in (client, busy))
    sending = in_background(source.sendall, bytes(100 * MB))
    receive(busy, MB)
    assert post(pool.proxy, f"/api/sessions/{number}/kill")["sessions"] == 1
    assert [is_reset(each) for each in (client, server)] == [True, True]
    post(pool.proxy, f"/api/sessions/{busy_number}/kill")
    assert is_reset(busy)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        sending.result(READY_S)
    assert pool.proxy.sessions() == {"killed": 2}
    other.sendall(payload(MB))
    assert digest(receive(peer, MB)) == digest(payload(MB))
    status, body = ask(pool.proxy, "POST", f"/api/sessions/{number}/kill", Authorization=f"Bearer {TOKEN}")
    assert (status, f"no session {number}" in body.decode()) == (HTTPStatus.NOT_FOUND, True)
    pool.proxy.logged(f"(session {number} was ended)")


@every_carrier
def test_clients_without_a_back_end_are_killed_as_well(variant: Variant, start: Starter) -> None:
    pool = start.pool(*variant.options, *steered(start.folder), "--wait-for-backend", "60")
    waiting = pool.connect()
    poll(lambda: sessions_of(pool.proxy), PROMPT_S, "it waits")
    (number,) = sessions_of(pool.proxy).values()
    post(pool.proxy, f"/api/sessions/{number}/kill")
    assert is_reset(waiting)
    assert pool.proxy.sessions() == {"killed": 1}
    deaf = pool.drop_syns()
    connecting = pool.connect()
    poll(lambda: row(pool.proxy, deaf.address)["connections"] == 1, PROMPT_S, "it is being connected")
    assert say(pool.proxy, deaf.address, "kill")["sessions"] == 1
    assert is_reset(connecting)
    assert pool.proxy.sessions() == {"killed": 2}


@every_carrier
def test_all_sessions_of_a_back_end_are_killed(variant: Variant, start: Starter) -> None:
    pool = start.pool(*variant.options, *steered(start.folder))
    links = pool.links(100)
    (backend,) = pool.proxy.backends()
    assert say(pool.proxy, backend, "kill")["sessions"] == 100
    assert all(is_reset(each) for link in links for each in link)
    assert pool.proxy.sessions() == {"killed": 100}


@every_carrier
def test_sessions_are_shed_little_by_little_the_idle_ones_first(variant: Variant, start: Starter) -> None:
    pool = start.pool(*variant.options, *steered(start.folder))
    links = pool.links(20)
    (backend,) = pool.proxy.backends()
    busy, peer = links[0]  # the oldest
    stop = threading.Event()

    def talk() -> float:
        """Say something ten times a second. Returns when it was reset."""
        try:
            while not stop.wait(0.1):
                busy.sendall(b"x")
                receive(peer, 1)
        except OSError:
            return time.monotonic()
        return 0.0

    talking = in_background(talk)
    time.sleep(0.3)
    began = time.monotonic()
    assert say(pool.proxy, backend, "shed?rate=20")["sessions"] == 20
    assert all(is_reset(each) for link in links[1:] for each in link)
    took = time.monotonic() - began
    assert 19 / 20 <= took <= SHED_S + took * 0.5
    ended = talking.result(READY_S)
    stop.set()
    assert ended >= began + 19 / 20
    assert pool.proxy.sessions() == {"shed": 20}
    pool.proxy.logged("(20 session\\(s\\) were shed: none is left)")
    poll(lambda: row(pool.proxy, backend)["connections"] == 0, PROMPT_S, "none is left")
