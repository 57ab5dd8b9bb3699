"""Back-ends that may have few sessions at once: who gets in, who waits, in which order, and at what cost."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from rproxy.net.addresses import Address
from tests.integration.conftest import BY_REPORT, Starter, Variant, every_transport
from tests.integration.fake_agents import BUSY
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, READY_S, STOP_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import is_readable, payload, receive, receive_all, receive_until_reset, reset
from tests.integration.stopwatch import Stopwatch
from tests.integration.twistd import RESTING

TIMEOUT_S: Final = 5.0
"""The default of `queue-timeout`."""
LATE_S: Final = 0.5

pytestmark = every_transport


@pytest.fixture(scope="module")
def proxy(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder: Path = tmp_path_factory.mktemp("proxy")
    with Proxy(folder, *BY_REPORT, *variant.options, reactor=variant.reactor) as running:
        yield running


@pytest.fixture
def pool(proxy: Proxy) -> Iterator[Pool]:
    pool = Pool(proxy)
    yield pool
    pool.close()


def limit(pool: Pool, address: Address, sessions: int | None) -> None:
    """Its agent registers this limit."""
    pool.agent_of(address).limit(sessions)
    poll(lambda: pool.proxy.backends()[address]["max_connections"] == sessions, READY_S, "the limit is known")


def queue(pool: Pool) -> dict[str, Any]:
    """What the status says of the service."""
    (service,) = pool.proxy.status()["services"]
    found: dict[str, Any] = service
    return found


def waiting(pool: Pool, clients: int) -> None:
    poll(lambda: queue(pool)["waiting"] == clients, PROMPT_S, f"{clients} wait")


def client(pool: Pool, word: bytes) -> socket.socket:
    connection = pool.connect()
    connection.sendall(word)
    return connection


def limited(start: Starter, variant: Variant, folder: Path, limits: str) -> Pool:
    """At a proxy of its own, whose file has these limits of back-ends."""
    file = folder / "rproxy.toml"
    file.write_text(f'[[service]]\nlisten = "127.0.0.1:0"\n[service.backends]\n{limits}\n')
    options = ("--config", str(file), "--drain-timeout", f"{STOP_S:g}")
    return Pool(start.proxy(*options, *variant.options, reactor=variant.reactor))


def test_as_many_as_fit_are_served_and_then_the_next_whenever_one_leaves(pool: Pool) -> None:
    server = pool.serve(echo)
    limit(pool, server.address, 3)
    clients = [client(pool, b"%03d" % number) for number in range(12)]
    for number in range(3):
        assert receive(clients[number], 3) == b"%03d" % number
    waiting(pool, 9)
    status = queue(pool)
    assert (status["full"], pool.proxy.backends()[server.address]["connections"]) == (1, 3)
    assert status["waiting_s"] > 0
    assert not any(is_readable(each) for each in clients[3:])
    for number in range(9):
        clients[number].close()
        assert receive(clients[number + 3], 3) == b"%03d" % (number + 3)
        assert pool.proxy.backends()[server.address]["connections"] <= 3
    waiting(pool, 0)


def test_waiting_costs_no_cpu_ends_in_time_and_whoever_leaves_leaves_the_queue(pool: Pool) -> None:
    server = pool.serve(echo)
    limit(pool, server.address, 1)
    inside = client(pool, b"in")
    assert receive(inside, 2) == b"in"
    before = pool.proxy.sessions()
    watch = Stopwatch()
    silent = [pool.connect() for _ in range(20)]
    sending = client(pool, b"question")
    leaving = pool.connect()
    waiting(pool, 22)
    reset(leaving)
    silent.pop().close()
    waiting(pool, 20)
    assert pool.proxy.share_of_a_core() < RESTING
    assert receive_until_reset(sending) == b""
    for each in silent:
        assert receive_all(each) == b""
    assert watch.wall_s >= TIMEOUT_S - 0.05
    assert watch.own_s < TIMEOUT_S + LATE_S
    ended = {name: count - before.get(name, 0) for name, count in pool.proxy.sessions().items()}
    assert {name: count for name, count in ended.items() if count} == {"queue-timeout": 20, "client-gone": 2}
    assert "all back-ends were full for too long" in pool.proxy.log
    inside.sendall(b"still")
    assert receive(inside, 5) == b"still"


def test_what_a_waiting_client_sent_arrives_whole(pool: Pool) -> None:
    server = pool.serve(echo)
    limit(pool, server.address, 1)
    first = client(pool, b"in")
    assert receive(first, 2) == b"in"
    body = payload(50_000)
    second = client(pool, body)
    second.shutdown(socket.SHUT_WR)
    waiting(pool, 1)
    first.close()
    assert receive_all(second) == body


def test_a_client_that_is_refused_by_one_waits_for_the_one_that_is_full(pool: Pool) -> None:
    full = pool.serve(echo, BUSY)
    limit(pool, full.address, 1)
    first = client(pool, b"in")
    assert receive(first, 2) == b"in"
    pool.refuse()  # it reports less load
    second = client(pool, b"next")
    waiting(pool, 1)
    assert pool.proxy.backends()[full.address]["connections"] == 1
    first.close()
    assert receive(second, 4) == b"next"


def test_a_limit_that_is_lowered_ends_nobody_and_one_that_is_lifted_lets_all_in(pool: Pool) -> None:
    server = pool.serve(echo)
    inside = [client(pool, b"in") for _ in range(4)]
    for each in inside:
        assert receive(each, 2) == b"in"
    limit(pool, server.address, 2)
    late = [client(pool, b"late") for _ in range(5)]
    waiting(pool, 5)
    inside.pop().close()
    inside.pop().close()
    poll(lambda: pool.proxy.backends()[server.address]["connections"] == 2, PROMPT_S, "two are left")
    for each in inside:
        each.sendall(b"on")
        assert receive(each, 2) == b"on"
    assert not any(is_readable(each) for each in late)
    limit(pool, server.address, None)
    for each in late:
        assert receive(each, 4) == b"late"


def test_probes_tell_the_agent_of_those_who_wait(pool: Pool) -> None:
    server = pool.serve(echo)
    limit(pool, server.address, 1)
    first = client(pool, b"in")
    assert receive(first, 2) == b"in"
    for _ in range(4):
        pool.connect()
    waiting(pool, 4)
    agent = pool.agent_of(server.address)
    agent.drain()  # has the proxy probe at once
    agent.drain(False)
    poll(lambda: agent.sessions == 5, READY_S, "the agent is told of them")


def test_a_full_back_end_that_goes_leaves_its_clients_to_the_one_that_comes(pool: Pool) -> None:
    going = pool.serve(echo)
    limit(pool, going.address, 1)
    first = client(pool, b"in")
    assert receive(first, 2) == b"in"
    second = client(pool, b"next")
    waiting(pool, 1)
    pool.agent_of(going.address).drain()
    poll(lambda: pool.proxy.state(going.address) == "draining", READY_S, "it drains")
    assert not is_readable(second)
    pool.serve(echo)
    assert receive(second, 4) == b"next"


def test_a_file_has_limits_for_each_back_end_and_an_agent_may_have_its_own(
    start: Starter, variant: Variant, tmp_path: Path
) -> None:
    pool = limited(start, variant, tmp_path, "max-connections = 1\nqueue = 1\nqueue-timeout = 1")
    server = pool.serve(echo)
    assert pool.proxy.backends()[server.address]["max_connections"] == 1
    first = client(pool, b"in")
    assert receive(first, 2) == b"in"
    watch = Stopwatch()
    second = pool.connect()
    waiting(pool, 1)
    assert receive_all(pool.connect()) == b""
    assert watch.own_s < 0.9
    assert receive_all(second) == b""
    assert watch.wall_s >= 0.95
    assert watch.own_s < 1 + LATE_S
    assert pool.proxy.sessions() == {"queue-full": 1, "queue-timeout": 1}
    limit(pool, server.address, 2)
    assert receive(client(pool, b"too"), 3) == b"too"
    pool.close()


def test_many_that_come_at_the_moment_a_session_ends_do_not_get_past_the_queues_bound(
    start: Starter, variant: Variant, tmp_path: Path
) -> None:
    pool = limited(start, variant, tmp_path, "max-connections = 1\nqueue = 2")
    pool.serve(echo)
    first = client(pool, b"in")
    assert receive(first, 2) == b"in"
    second, third = client(pool, b"2"), pool.connect()
    waiting(pool, 2)
    pool.proxy.send_signal(signal.SIGSTOP)
    first.close()
    late = [pool.connect() for _ in range(20)]
    pool.proxy.send_signal(signal.SIGCONT)
    assert receive(second, 1) == b"2"
    poll(lambda: sum(is_readable(each) for each in late) >= 19, PROMPT_S, "all but one are turned away")
    assert queue(pool)["waiting"] <= 2
    assert pool.proxy.sessions()["queue-full"] >= 19
    assert not is_readable(third)
    pool.close()


def test_at_a_stop_those_who_wait_for_a_full_back_end_are_served_yet(
    start: Starter, variant: Variant, tmp_path: Path
) -> None:
    pool = limited(start, variant, tmp_path, "max-connections = 1")
    pool.serve(echo)
    clients = [client(pool, b"%d" % number) for number in range(4)]
    assert receive(clients[0], 1) == b"0"
    waiting(pool, 3)
    pool.proxy.send_signal(signal.SIGTERM)
    pool.proxy.logged(r"stopping: (4) session\(s\) left")
    for number in range(3):
        clients[number].close()
        assert receive(clients[number + 1], 1) == b"%d" % (number + 1)
    clients[3].close()
    assert pool.proxy.wait(STOP_S) == -signal.SIGTERM
    assert failures(pool.proxy.log) == []
    pool.abandon()


def test_an_agent_registers_its_limit(start: Starter, variant: Variant) -> None:
    pool = start.pool(*variant.options, reactor=variant.reactor)
    server = pool.listen()
    pool.agent_of(server.address).close()
    poll(lambda: not pool.proxy.backends(), READY_S, "no back-end is left")
    port, monitor = server.address[1], pool.proxy.monitor
    agent = start.elsewhere().twistd(
        *("rproxy-agent", "--proxy", f"{monitor[0]}:{monitor[1]}", "--port", "0"),
        *("--service-port", str(port), "--max-connections", "2", "--check", "none"),
    )
    poll(lambda: pool.proxy.state(server.address) == "up", READY_S, "it is up")
    assert pool.proxy.backends()[server.address]["max_connections"] == 2
    for _ in range(3):
        pool.connect()
    waiting(pool, 1)
    agent.close()
