"""Back-ends that get no new client keep those they have: they drain, leave, or are drained by an operator."""

from __future__ import annotations

import signal
import socket
from typing import Any, Final

import attrs
import pytest
from twisted.internet.address import IPv4Address

from rproxy.pool.states import Administration
from tests.fakes import Stream, run
from tests.integration.agents import start_agent, wait_until_up
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.fake_agents import BUSY, FakeAgent
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, READY_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.servers import Listener
from tests.integration.sockets import MB, digest, payload, receive, receive_all
from tests.integration.twistd import Twistd
from tests.tap.services import ProxyBench

FEW: Final = 5
"""Clients."""


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")


@attrs.frozen
class Drained:
    """The back-end that every client goes to, with a session on it, until it drains; then there is another one."""

    pool: Pool
    preferred: Listener
    client: socket.socket
    server: socket.socket

    @property
    def agent(self) -> FakeAgent:
        return self.pool.agent_of(self.preferred.address)

    @property
    def counts(self) -> tuple[int, int]:
        """Its sessions: now, and ever."""
        row = self.pool.proxy.backends()[self.preferred.address]
        return row["connections"], row["total"]

    def wait_until(self, state: str | None) -> None:
        poll(lambda: self.pool.proxy.state(self.preferred.address) == state, READY_S, f"it is {state}")

    def assert_session_goes_on(self) -> None:
        for source, sink in [(self.client, self.server), (self.server, self.client)]:
            sending = in_background(source.sendall, payload(MB))
            assert digest(receive(sink, MB)) == digest(payload(MB))
            sending.result()

    def assert_session_ends_in_order(self) -> None:
        closed = self._closed()
        self.client.shutdown(socket.SHUT_WR)
        assert receive_all(self.server) == b""
        self.server.sendall(b"farewell")
        self.server.close()
        assert receive_all(self.client) == b"farewell"
        poll(lambda: self._closed() == closed + 1, PROMPT_S, "the session is closed")

    def _closed(self) -> int:
        return self.pool.proxy.sessions().get("closed", 0)

    def assert_clients_go_elsewhere(self) -> None:
        for _ in range(FEW):
            assert receive_all(self.pool.connect()) == b"hello"

    def assert_clients_come(self) -> None:
        for _ in range(FEW):
            client = self.pool.connect()
            self.preferred.accept().sendall(b"again")
            assert receive(client, 5) == b"again"


def to_be_drained(pool: Pool) -> Drained:
    preferred = pool.listen()
    pool.serve(greet, BUSY)
    client = pool.connect()
    drained = Drained(pool, preferred, client, preferred.accept())
    drained.assert_clients_come()
    return drained


@pytest.fixture
def drained(pool: Pool) -> Drained:
    return to_be_drained(pool)


@every_carrier
def test_an_agent_that_drains_gets_no_new_client_and_loses_none(drained: Drained) -> None:
    drained.agent.drain()
    drained.wait_until("draining")
    drained.assert_clients_go_elsewhere()
    drained.assert_session_goes_on()
    drained.agent.drain(False)
    drained.wait_until("up")
    drained.assert_clients_come()
    drained.agent.drain()
    drained.wait_until("draining")
    drained.assert_session_ends_in_order()


@every_carrier
def test_an_agent_that_leaves_gets_no_new_client_and_loses_none(drained: Drained) -> None:
    counts = drained.counts
    drained.agent.close()
    drained.wait_until("departed")
    drained.assert_clients_go_elsewhere()
    drained.assert_session_goes_on()
    assert drained.counts == counts
    drained.pool.register(drained.preferred.address)
    assert drained.counts == counts
    drained.assert_clients_come()
    sessions, total = counts
    assert drained.counts == (sessions + FEW, total + FEW)
    drained.assert_session_ends_in_order()


@every_carrier
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_what_has_gone_is_in_the_table_for_as_long_as_its_sessions_are(
    own_pool: Pool, start: Starter, killed: bool
) -> None:
    """One is to end by itself before the host may be rebooted."""
    service = Listener()
    start.closing(service.close)
    agent = start_agent(start, own_pool.proxy, service.address)
    wait_until_up(own_pool.proxy, service.address)
    clients = [own_pool.connect() for _ in range(2)]
    servers = [service.accept() for _ in clients]

    def row() -> dict[str, Any] | None:
        return own_pool.proxy.backends().get(service.address)

    def is_left(state: str, sessions: int) -> bool:
        shown = row()
        return shown is not None and (shown["state"], shown["connections"], shown["total"]) == (state, sessions, 2)

    if killed:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        agent = start_agent(start, own_pool.proxy, service.address)
        own_pool.proxy.logged("(its agent was started again)")
        poll(lambda: is_left("up", 2), READY_S, "it is up, whatever a busy machine has made of the start")
    agent.stop()
    poll(lambda: is_left("departed", 2), READY_S, "it has departed")
    clients.pop().close()
    servers.pop().close()
    poll(lambda: is_left("departed", 1), PROMPT_S, "one session is left")
    agent = start_agent(start, own_pool.proxy, service.address)
    poll(lambda: is_left("up", 1), READY_S, "another one has taken it over")
    agent.stop()
    poll(lambda: is_left("departed", 1), READY_S, "it has departed again")
    for end in (clients.pop(), servers.pop()):
        end.close()
    poll(lambda: row() is None, PROMPT_S, "nothing is left")
    assert own_pool.proxy.logged(r"(departed -> forgotten \(its last session has ended)")
    assert failures(own_pool.proxy.log) == []


@every_carrier
def test_a_host_drains_while_its_agent_sees_the_file_and_when_it_stops_though_it_was_started_again(
    own_pool: Pool, start: Starter
) -> None:
    preferred, file = Listener(), start.folder / "drain"
    start.closing(preferred.close)
    own_pool.serve(greet, BUSY)

    def agent_of_preferred() -> Twistd:
        told = ["--report", "cpu=0,memory=0,tcp=0", "--drain-file", str(file)]
        return start_agent(start, own_pool.proxy, preferred.address, *told)

    agent = agent_of_preferred()
    wait_until_up(own_pool.proxy, preferred.address)
    client = own_pool.connect()
    drained = Drained(own_pool, preferred, client, preferred.accept())
    file.touch()
    drained.wait_until("draining")
    drained.assert_clients_go_elsewhere()
    drained.assert_session_goes_on()
    file.unlink()
    drained.wait_until("up")
    drained.assert_clients_come()

    agent.send_signal(signal.SIGKILL)
    agent.wait()
    agent = agent_of_preferred()
    own_pool.proxy.logged("(its agent was started again)")
    drained.wait_until("up")
    drained.assert_clients_come()
    agent.stop()
    drained.assert_clients_go_elsewhere()
    drained.assert_session_goes_on()
    drained.wait_until("departed")
    drained.assert_session_ends_in_order()


@every_carrier
def test_clients_are_turned_away_rather_than_given_to_the_only_back_end_while_it_drains(
    variant: Variant, start: Starter
) -> None:
    pool = start.pool(*variant.options, "--wait-for-backend", "0.5")
    only = pool.serve(greet)
    agent = pool.agent_of(only.address)
    agent.drain()
    poll(lambda: pool.proxy.state(only.address) == "draining", READY_S, "it drains")
    assert receive_all(pool.connect()) == b""
    assert not pool.proxy.status()["panic"]
    agent.drain(False)
    poll(lambda: pool.proxy.state(only.address) == "up", READY_S, "it is up")
    assert receive_all(pool.connect()) == b"hello"


def test_an_operators_drain_lets_sessions_end_by_themselves_and_lets_no_client_in_until_he_says_ready() -> None:
    bench = ProxyBench(listen=("8080",), backend_port=8000, wait_s=0.0)
    bench.start()
    bench.backend_up()
    client, server = bench.session()
    service = bench.service.service
    (backend,) = service.pool
    service.publish(service.pool.administer(backend, Administration.DRAIN, service.seconds()))
    assert bench.service.status()["backends"][0]["state"] == "draining"
    client.receive(b"question")
    run(bench.reactor, 1)
    server.receive(b"answer")
    run(bench.reactor, 1)
    assert (server.value(), client.value()) == (b"question", b"answer")

    turned_away = visitor(bench)
    run(bench.reactor, 1)
    assert turned_away.disconnected
    assert len(bench.reactor.connects) == 1

    client.receive_end()
    server.receive_end()
    run(bench.reactor, 1)
    assert bench.service.status()["counters"]["sessions"] == {"no-backend": 1, "closed": 1}
    service.publish(service.pool.administer(backend, Administration.READY, service.seconds()))
    assert bench.service.status()["backends"][0]["state"] == "up"
    bench.session()
    assert bench.service.status()["backends"][0]["connections"] == 1


def visitor(bench: ProxyBench) -> Stream:
    """A client that the bench need not have a back-end for."""
    protocol = bench.reactor.tcpServers[0][1].buildProtocol(IPv4Address("TCP", "192.0.2.1", 4322))
    assert protocol is not None
    client = Stream(bench.reactor, protocol)
    protocol.makeConnection(client)
    return client
