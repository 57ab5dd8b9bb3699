"""The carriers by name: which are made, which are refused, and that one carrier serves several services."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest

from rproxy.carriers import registry
from rproxy.carriers.carrier import Carrier, Resources
from rproxy.carriers.portable.carrier import PortableCarrier
from rproxy.carriers.registry import CARRIERS, Entry, UnusableCarrier, check_carrier, make_carrier
from rproxy.carriers.splice.reactor import SpliceCarrier
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.tap.service import ServedPool, serve_pool
from rproxy.timing.wheel import Wheel
from tests.carriers.loopback import listening, received
from tests.carriers.splicing import LoopbackEndpoint, Splicing
from tests.fakes import Reactor, confirm, connected, pool_of, registered, run


def resources(reactor: Reactor) -> Resources:
    return Resources(reactor, Wheel(reactor), Capacity(100, reactor.seconds), pipes_max=4)


@pytest.mark.parametrize(
    ("name", "can_splice", "kind"),
    [
        ("auto", True, SpliceCarrier),
        ("auto", False, PortableCarrier),
        ("splice", True, SpliceCarrier),
        ("portable", True, PortableCarrier),
        ("portable", False, PortableCarrier),
    ],
)
def test_a_carrier_is_made_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, can_splice: bool, kind: type[object]
) -> None:
    monkeypatch.setattr(registry, "CAN_SPLICE", can_splice)
    carrier = make_carrier(name, resources(Reactor()))
    assert type(carrier) is kind
    carrier.abort()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "must be auto, splice or portable"),
        ("Splice", "must be auto, splice or portable"),
        ("splice", "needs Linux; auto takes what there is"),
    ],
)
def test_a_carrier_that_is_unknown_or_does_not_work_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setattr(registry, "CAN_SPLICE", False)
    for refuse in (lambda: check_carrier(name), lambda: make_carrier(name, resources(Reactor()))):
        with pytest.raises(UnusableCarrier) as refused:
            refuse()
        assert str(refused.value) == reason


def test_a_carrier_of_its_own_needs_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Resources] = []

    def make(shared: Resources) -> Carrier:
        made.append(shared)
        return PortableCarrier(shared.reactor, shared.deadlines, shared.capacity)

    monkeypatch.setitem(CARRIERS, "own", Entry(make))
    shared = resources(Reactor())
    check_carrier("own")
    make_carrier("own", shared)
    assert made == [shared]
    with pytest.raises(UnusableCarrier, match="must be auto, splice, portable or own"):
        check_carrier("other")


def served_pool(reactor: Reactor, server: socket.socket) -> ServedPool:
    pool = pool_of()
    address, port = server.getsockname()
    confirm(pool, registered(pool, address, service_port=port), token=1)
    return serve_pool(pool, reactor)


def test_one_splice_carrier_serves_several_services(stack: ExitStack) -> None:
    bench = Splicing(stack, listening())
    server = stack.enter_context(listening("127.0.0.2"))
    other = served_pool(bench.reactor, server)
    bench.carrier.serve(bench.endpoint, other.service, "the other")  # type: ignore[arg-type]
    client, backend = bench.joined()
    other_client = bench.dial(bench.endpoint.ports[1])
    other_backend = bench.accept(server)
    for sender, receiver, data in ((client, backend, b"one"), (other_client, other_backend, b"other")):
        sender.send(data)
        assert bench.receive(receiver, len(data)) == data
    assert {(session.service, session.listener) for session in connected(bench.carrier)} == {
        (bench.service, ""),
        (other.service, "the other"),
    }
    for end in (other_client, other_backend):
        end.close()
    bench.until(lambda: other.counters.endings)
    assert (other.counters.endings, bench.counters.endings) == ({Ending.CLOSED: 1}, {})
    bench.carrier.abort()
    assert (other.counters.endings, bench.counters.endings) == ({Ending.CLOSED: 1}, {Ending.STOPPED: 1})


def test_one_portable_carrier_serves_several_services(stack: ExitStack) -> None:
    reactor: Any = Reactor()
    carrier = PortableCarrier(reactor, Wheel(reactor), Capacity(100, reactor.seconds))
    endpoint = LoopbackEndpoint(reactor)
    servers = [stack.enter_context(listening(f"127.0.0.{number}")) for number in (1, 2)]
    served = [served_pool(reactor, server) for server in servers]
    clients = []
    for each, name in zip(served, ("one", "other"), strict=True):
        carrier.serve(endpoint, each.service, name)  # type: ignore[arg-type]
        clients.append(stack.enter_context(socket.create_connection(endpoint.ports[-1].socket.getsockname())))
        endpoint.ports[-1].doRead()
    backends = [connector.succeed() for connector in reactor.connects]
    assert [connector.address for connector in reactor.connects] == [server.getsockname() for server in servers]
    assert [(session.service, session.listener) for session in sorted_sessions(carrier)] == [
        (served[0].service, "one"),
        (served[1].service, "other"),
    ]
    for backend, data in zip(backends, (b"one", b"other"), strict=True):
        backend.receive(data)
    for writer in reactor.getWriters():
        writer.doWrite()
    assert [received(client, size) for client, size in zip(clients, (3, 5), strict=True)] == [b"one", b"other"]
    carrier.abort()
    for port in endpoint.ports:
        port.stopListening()
    run(reactor, 1)
    assert [each.counters.endings for each in served] == [{Ending.STOPPED: 1}] * 2


def sorted_sessions(carrier: Carrier) -> list[Any]:
    return sorted(connected(carrier), key=lambda session: session.listener)
