"""Where connections to back-ends come from, with either carrier."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import attrs
import pytest
from twisted.python.failure import Failure

from rproxy.net.addresses import Address
from rproxy.net.outgoing import AddressSource, ClientSource
from rproxy.sessions.endings import Ending
from rproxy.sessions.outbound import Outbound, Source
from tests.carriers.loopback import listening
from tests.carriers.splicing import Splicing
from tests.conftest import need
from tests.fakes import run

pytestmark = pytest.mark.parametrize("carrier", ["splice", "portable"])


class Bench(Splicing):
    """Of one carrier or the other, whose back-ends are the servers."""

    def __init__(self, stack: ExitStack, carrier: str, source: Source, *servers: socket.socket) -> None:
        super().__init__(stack, *servers)
        self.service.outbound = Outbound(source=source)
        self.is_portable = carrier == "portable"
        if self.is_portable:
            self.portable.serve(self.endpoint, self.service)  # type: ignore[arg-type]

    def turn(self, wait_s: float = 0.0) -> bool:
        """As the reactor of either carrier would."""
        if not self.is_portable:
            return super().turn(wait_s)
        run(self.reactor, 0.001)
        readers = [each for each in self.reactor.getReaders() if each is not self.carrier]
        readable, writable, _ = select.select(readers, self.reactor.getWriters(), [], wait_s)
        for each in readable:
            self._serve(each, each.doRead)
        for each in writable:
            if each in self.reactor.getWriters():
                self._serve(each, each.doWrite)
        return bool(readable or writable)

    def _serve(self, transport: Any, serve: Callable[[], Exception | None]) -> None:
        error = serve()
        if error is not None:
            self.reactor.removeReader(transport)
            self.reactor.removeWriter(transport)
            transport.connectionLost(Failure(error))

    def visit(self, host: str = "127.0.0.9") -> socket.socket:
        client = self._stack.enter_context(socket.socket())
        client.bind((host, 0))
        port = self.endpoint.ports[-1 if self.is_portable else 0]
        client.connect(port.socket.getsockname())
        client.setblocking(False)
        return client

    def seen(self, server: socket.socket, client: socket.socket) -> Address:
        """Where the server sees the next connection from; it is checked that it carries what the client sends."""
        connection = self.accept(server)
        client.send(b"hello")
        assert self.receive(connection, 5) == b"hello"
        address: Address = connection.getpeername()
        return address


@attrs.define
class Failing:
    """A `Source` whose connects end at once, with `errors` first."""

    errors: list[int]
    asked: list[tuple[Address, Address | None]] = attrs.field(factory=list)

    def check(self) -> None:
        pass

    def connect(self, sock: Any, remote: Address, client: Address | None) -> int:
        self.asked.append((remote, client))
        return self.errors.pop(0) if self.errors else int(sock.connect_ex(remote))


def report(*line: str) -> None:
    raise AssertionError(line)


def test_addresses_are_taken_in_turn(stack: ExitStack, carrier: str) -> None:
    bench = Bench(stack, carrier, AddressSource(["127.0.0.5", "127.0.0.6"], report), listening())
    hosts = [bench.seen(bench.servers[0], bench.visit())[0] for _ in range(4)]
    assert sorted(hosts[:2]) == ["127.0.0.5", "127.0.0.6"]
    assert hosts[:2] == hosts[2:]


def test_a_back_end_sees_the_clients_own_address(stack: ExitStack, carrier: str) -> None:
    need(root=True)
    bench = Bench(stack, carrier, ClientSource(report), listening())
    for host in ("127.0.0.9", "127.0.0.10"):
        assert bench.seen(bench.servers[0], bench.visit(host))[0] == host


def test_the_source_is_told_for_whom_it_connects(stack: ExitStack, carrier: str) -> None:
    source = Failing([])
    bench = Bench(stack, carrier, source, listening())
    client = bench.visit()
    bench.seen(bench.servers[0], client)
    assert source.asked == [(bench.servers[0].getsockname(), client.getsockname())]


@pytest.mark.parametrize("error", [errno.EADDRNOTAVAIL, errno.EPERM, errno.ENOBUFS])
def test_a_source_that_cannot_be_used_is_no_fault_of_the_back_end(stack: ExitStack, carrier: str, error: int) -> None:
    bench = Bench(stack, carrier, Failing([error]), listening(), listening("127.0.0.2"))
    assert bench.seen(bench.servers[1], bench.visit())
    assert not bench.policy.told["failed"]
    assert [backend.health.refusals for backend in bench.pool] == [0, 0]
    assert bench.counters.redispatches == 1


def test_other_errors_are(stack: ExitStack, carrier: str) -> None:
    bench = Bench(stack, carrier, Failing([errno.ENETUNREACH]), listening(), listening("127.0.0.2"))
    assert bench.seen(bench.servers[1], bench.visit())
    assert bench.policy.told["failed"].total() == 1


def test_where_no_source_can_be_used_the_client_is_let_go(stack: ExitStack, carrier: str) -> None:
    source = Failing([errno.EADDRNOTAVAIL] * 3)
    bench = Bench(stack, carrier, source, listening())
    client = bench.visit()
    assert bench.receive(client, 1) == b""
    client.close()
    bench.until(lambda: bench.counters.endings)
    assert bench.counters.endings == {Ending.UNREACHABLE: 1}
    assert not bench.policy.told["failed"]
    bench.until(lambda: bench.capacity.sessions == 0)
    assert len(source.asked) == 1


def test_a_special_back_end_has_its_own(stack: ExitStack, carrier: str) -> None:
    bench = Bench(stack, carrier, Failing([]), listening(), listening("127.0.0.2"))
    special = AddressSource(["127.0.0.7"], report)
    bench.service.special = {bench.servers[0].getsockname(): Outbound(source=special)}
    assert bench.seen(bench.servers[0], bench.visit())[0] == "127.0.0.7"
