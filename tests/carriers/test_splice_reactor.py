"""The splice carrier in the reactor: ports taken over, turns, watched descriptors, abort."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.tcp import Port
from twisted.protocols.policies import WrappingFactory

from rproxy.carriers.splice.reactor import ROUNDS, TICK_S
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.session import Session
from tests.carriers.loopback import listening, reset
from tests.carriers.splicing import LoopbackEndpoint, Splicing, black_hole, with_one_server
from tests.fakes import connected, logged, run


@pytest.fixture
def bench(stack: ExitStack) -> Splicing:
    return with_one_server(stack)


def serve(bench: Splicing, endpoint: Any) -> list[Any]:
    """Listen on `endpoint`; returns the list that gets the port or the failure."""
    results: list[Any] = []
    bench.carrier.serve(endpoint, bench.service).addBoth(results.append)
    return results


def wrapped(stack: ExitStack, bench: Splicing) -> LoopbackEndpoint:
    endpoint = LoopbackEndpoint(bench.reactor, WrappingFactory)

    def close() -> None:
        for port in endpoint.ports:
            port.stopListening()
        run(bench.reactor, 0)

    stack.callback(close)
    return endpoint


def test_a_plain_port_is_read_by_the_carrier_and_not_by_the_reactor(bench: Splicing) -> None:
    assert bench.reactor.getReaders() == [bench.carrier]


def test_a_port_with_a_layer_above_is_left_to_the_portable_carrier(stack: ExitStack, bench: Splicing) -> None:
    endpoint = wrapped(stack, bench)
    (port,) = serve(bench, endpoint)
    assert port in bench.reactor.getReaders()


def test_a_strict_carrier_refuses_such_a_port_and_stops_it(stack: ExitStack) -> None:
    bench = with_one_server(stack, strict=True)
    endpoint = wrapped(stack, bench)
    (failure,) = serve(bench, endpoint)
    run(bench.reactor, 0)
    assert failure.check(ValueError)
    assert (
        failure.getErrorMessage() == "the splice carrier takes plain sockets only; --carrier auto takes this one, too"
    )
    assert not endpoint.ports[0].connected
    assert bench.reactor.getReaders() == [bench.carrier]


class LateEndpoint:
    """Its port opens when the test says."""

    def __init__(self, endpoint: LoopbackEndpoint) -> None:
        self.listening: Deferred[IListeningPort] = Deferred()
        self._endpoint = endpoint
        self._factory: Any = None

    def listen(self, factory: Any) -> Deferred[IListeningPort]:
        self._factory = factory
        return self.listening

    def open(self) -> Port:
        self._endpoint.listen(self._factory).chainDeferred(self.listening)
        return self._endpoint.ports[-1]


def test_a_port_that_opens_only_after_the_end_is_stopped(bench: Splicing) -> None:
    late = LateEndpoint(bench.endpoint)
    results = serve(bench, late)
    bench.carrier.abort()
    port = late.open()
    run(bench.reactor, 0)
    assert not port.connected
    assert bench.reactor.getReaders() == []
    assert results == [port]


def test_a_stopped_port_accepts_no_client_and_open_sessions_go_on(bench: Splicing) -> None:
    client, backend = bench.joined()
    address = bench.port.socket.getsockname()
    bench.port.stopListening()
    run(bench.reactor, 0)
    with socket.socket() as late, pytest.raises(ConnectionRefusedError):
        late.connect(address)
    client.send(b"question")
    assert bench.receive(backend, 8) == b"question"


def test_a_port_taken_over_is_not_resumed_by_the_portable_carrier(stack: ExitStack) -> None:
    bench = with_one_server(stack, sessions_max=1)
    endpoint = wrapped(stack, bench)
    (other,) = serve(bench, endpoint)
    client = bench.dial(other)
    with logged():
        other.doRead()
        assert bench.capacity.full
        bench.capacity.leave()
    assert bench.port not in bench.reactor.getReaders()
    assert other in bench.reactor.getReaders()
    bench.capacity.enter()
    client.close()
    bench.carrier.abort()


def test_both_carriers_share_the_capacity(stack: ExitStack) -> None:
    bench = with_one_server(stack, sessions_max=1)
    endpoint = wrapped(stack, bench)
    (other,) = serve(bench, endpoint)
    bench.joined()
    with logged():
        bench.dial(other)
        if other in bench.reactor.getReaders():
            other.doRead()
    assert bench.capacity.sessions <= 1


def test_when_a_watched_descriptor_is_readable_the_reactor_has_its_turn(bench: Splicing) -> None:
    """Also while clients keep the carrier busy."""
    client, backend = bench.joined()
    with socket.socket(type=socket.SOCK_DGRAM) as monitor, socket.socket(type=socket.SOCK_DGRAM) as agent:
        monitor.bind(("127.0.0.1", 0))
        bench.carrier.watch(monitor.fileno())
        agent.sendto(b"a PDU", monitor.getsockname())
        assert bench.has_events(5)
        polls = counted_polls(bench)
        bench.carrier.doRead()
        assert polls.count(True) == 1
        assert monitor.recv(10) == b"a PDU"
        client.send(b"question")
        assert bench.receive(backend, 8) == b"question"


def test_an_unwatched_descriptor_causes_no_events_until_it_is_watched_again(bench: Splicing) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as monitor:
        monitor.bind(("127.0.0.1", 0))
        bench.carrier.watch(monitor.fileno())
        monitor.sendto(b"a PDU", monitor.getsockname())
        assert bench.has_events(5)
        bench.carrier.unwatch(monitor.fileno())
        assert not bench.has_events(0)
        bench.carrier.watch(monitor.fileno())
        assert bench.has_events(5)
        bench.carrier.abort()
        bench.carrier.unwatch(monitor.fileno())
        bench.carrier.watch(monitor.fileno())


def test_while_a_descriptor_is_unwatched_the_reactor_has_its_turn_after_every_batch(bench: Splicing) -> None:
    """Its owner's timer in the reactor must not be late."""
    bench.joined()
    with socket.socket(type=socket.SOCK_DGRAM) as monitor:
        monitor.bind(("127.0.0.1", 0))
        polls = counted_polls(bench, always=True)
        bench.carrier.watch(monitor.fileno())
        bench.carrier.doRead()
        assert len(polls) == ROUNDS
        bench.carrier.unwatch(monitor.fileno())
        bench.carrier.doRead()
        assert len(polls) == ROUNDS + 1
        bench.carrier.watch(monitor.fileno())
        bench.carrier.doRead()
        assert len(polls) == 2 * ROUNDS + 1


def counted_polls(bench: Splicing, *, always: bool = False) -> list[bool]:
    """Whether each of the carrier's polls gave events from now on; `always` pretends that one did."""
    polls: list[bool] = []
    epoll = bench.carrier._epoll

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(epoll, name)

        def poll(self, wait_s: float, most: int) -> list[tuple[int, int]]:
            events = epoll.poll(wait_s, most)
            polls.append(bool(events))
            return [(0, 0)] if always and not events else events

    bench.carrier._epoll = Counting()  # type: ignore[assignment]
    return polls


def test_a_busy_carrier_gives_way_to_the_reactor(bench: Splicing) -> None:
    polls = counted_polls(bench, always=True)
    bench.carrier.doRead()
    assert len(polls) == ROUNDS


def test_an_idle_carrier_does_not_hold_the_reactor_up(bench: Splicing) -> None:
    polls = counted_polls(bench)
    bench.carrier.doRead()
    assert polls == [False]


def test_only_connected_sessions_are_connected(stack: ExitStack) -> None:
    bench = Splicing(stack, black_hole(stack, "127.0.0.2"))
    bench.dial()
    bench.until(lambda: bench.sessions)
    assert connected(bench.carrier) == []
    assert listed(bench) == bench.sessions


def listed(bench: Splicing) -> list[Session]:
    return [session for each in bench.carrier.slices() for session in each]


@pytest.mark.parametrize("phase", ["waiting", "connecting"])
def test_a_client_without_a_connection_is_listed_and_can_be_cut(stack: ExitStack, phase: str) -> None:
    servers = [black_hole(stack, "127.0.0.2")] if phase == "connecting" else []
    bench = Splicing(stack, *servers, terms=ServiceTerms(wait_s=5.0))
    client = bench.dial()
    bench.until(lambda: bench.sessions and bench.sessions[0].phase.name.lower() == phase)
    (session,) = listed(bench)
    session.link.cut(Ending.KILLED)
    assert listed(bench) == []
    assert bench.is_reset(client)
    bench.assert_over(Ending.KILLED)
    bench.pass_s(6)
    assert list(bench.counters.endings) == [Ending.KILLED]


def test_what_a_session_carries_and_what_the_kernel_holds_are_known(bench: Splicing) -> None:
    client, backend = bench.joined()
    (session,) = connected(bench.carrier)
    client.send(b"question")
    backend.send(b"answer")
    bench.receive(backend, 8)
    bench.receive(client, 6)
    assert session.link.carried() == (8, 6)
    bench.until(lambda: session.link.unsent() == 0)
    bench.stall(client)
    assert session.link.unsent() > 0


@pytest.mark.parametrize("ending", [Ending.IDLE, Ending.HALF_CLOSED])
def test_a_session_that_is_cut_is_reset_on_both_sides(bench: Splicing, ending: Ending) -> None:
    client, backend = bench.joined()
    client.send(b"question")
    bench.receive(backend, 8)
    bench.sessions[0].link.cut(ending)
    assert bench.is_reset(client)
    assert bench.is_reset(backend)
    bench.assert_over(ending)
    assert (bench.counters.up, bench.counters.down) == (8, 0)


def half_closed(bench: Splicing) -> None:
    client, _ = bench.joined()
    client.shutdown(socket.SHUT_WR)
    bench.until(lambda: bench.sessions[-1].half_closed)


def stalled(bench: Splicing) -> None:
    client, _ = bench.joined()
    bench.stall(client)


def dying(bench: Splicing) -> None:
    """The back-end has reset; the client has not read its data yet."""
    _, backend = bench.joined()
    bench.stall(backend)
    reset(backend)
    bench.quieten()
    bench.pass_s(2 * TICK_S)
    assert bench.capacity.sessions == len(bench.sessions)


@pytest.mark.parametrize("begin", [Splicing.joined, half_closed, stalled, dying])
def test_abort_ends_every_session_in_whatever_state_it_is(
    stack: ExitStack, begin: Callable[[Splicing], object]
) -> None:
    bench = with_one_server(stack)
    bench.joined()
    begin(bench)
    bench.carrier.abort()
    assert all(session.ending is not None for session in bench.sessions)
    bench.assert_nothing_held()
    assert (bench.reactor.getReaders(), bench.reactor.getDelayedCalls()) == ([], [])
    bench.carrier.abort()


def test_abort_ends_connects_on_the_way(stack: ExitStack) -> None:
    bench = Splicing(stack, black_hole(stack, "127.0.0.2"))
    bench.dial()
    bench.until(lambda: bench.sessions)
    bench.carrier.abort()
    bench.assert_over(Ending.STOPPED)
    assert bench.reactor.getDelayedCalls() == []


def test_a_carrier_that_never_served_can_be_ended(stack: ExitStack) -> None:
    Splicing(stack, listening()).carrier.abort()


def test_the_lost_reader_names_itself(bench: Splicing) -> None:
    assert bench.carrier.logPrefix() == "splice"
