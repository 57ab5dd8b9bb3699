"""What the carriers rely on in stream transports, for the fake one and for the TCP transports of each reactor.

The unit tests of the portable carrier run on `tests.fakes.Stream`. Every test here runs on that, on the transport of an
accepted connection, and on that of a connect.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any, Protocol

import pytest
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import ClientFactory, Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.carriers.loopback import RESET, WAIT_S, listening, stream
from tests.fakes import Stream, run

MUCH = 16 << 20
"""Bytes: more than the kernel buffers for a connection."""
TURNS = 5
"""Turns of the reactor after which nothing more is expected to happen."""


class Recorder(TwistedProtocol):
    """Notes every call; `on` has what is done within one."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.data = bytearray()
        self.on: dict[str, Callable[[], None]] = {}

    def note(self, call: Any) -> None:
        self.calls.append(call)
        self.on.get(call if isinstance(call, str) else "lost", lambda: None)()

    def dataReceived(self, data: bytes) -> None:
        if not self.data:
            self.note("data")
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.note(reason.type)


@implementer(IHalfCloseableProtocol)
class HalfCloseableRecorder(Recorder):
    def readConnectionLost(self) -> None:
        self.note("read ended")

    def writeConnectionLost(self) -> None:
        self.note("write ended")


@implementer(IPushProducer)
class Producer:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def pauseProducing(self) -> None:
        self._recorder.note("pause")

    def resumeProducing(self) -> None:
        self._recorder.note("resume")

    def stopProducing(self) -> None:
        self._recorder.note("stop")


class Connection(Protocol):
    """A transport with its protocol, and the peer at the other end."""

    transport: Any
    protocol: Recorder

    def turn(self) -> None:
        """One turn of the reactor."""
        ...

    def send(self, data: bytes) -> None: ...

    def end(self) -> None:
        """The peer ends its stream."""
        ...

    def reset(self) -> None:
        """The peer resets."""
        ...

    def stop_reading(self) -> None: ...

    def read_on(self) -> None: ...

    @property
    def received(self) -> bytes:
        """What the peer has received."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether the peer has received the end of the stream."""
        ...


@cache
def reactor_of(name: str) -> Any:
    """One beside the reactor that runs the tests."""
    return EPollReactor() if name == "epoll" else AsyncioSelectorReactor(asyncio.new_event_loop())


def iterate(reactor: Any, delay_s: float = 0.0) -> None:
    """One turn, also where the tests themselves are run by asyncio, which allows no loop within a loop."""
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        reactor.iterate(delay_s)
    finally:
        asyncio._set_running_loop(running)


class InMemory:
    """`Stream` on a clock."""

    def __init__(self, stack: ExitStack, protocol: Recorder) -> None:
        self._clock = Clock()
        self.protocol = protocol
        self.transport: Any = Stream(self._clock, protocol)
        protocol.makeConnection(self.transport)
        self._unread: list[Callable[[], None]] = []

    def turn(self) -> None:
        while self._unread and self.transport.reading:
            self._unread.pop(0)()
        run(self._clock, 0)

    def send(self, data: bytes) -> None:
        self._unread.append(lambda: self.transport.receive(data))

    def end(self) -> None:
        self._unread.append(lambda: self.transport.receive_end())

    def reset(self) -> None:
        self._unread.append(lambda: self.transport.reset())

    def stop_reading(self) -> None:
        self.transport.stalled = True

    def read_on(self) -> None:
        self.transport.unstall()

    @property
    def received(self) -> bytes:
        return bytes(self.transport.value())

    @property
    def has_ended(self) -> bool:
        return bool(self.transport.write_ended) or self.transport.ended is ConnectionDone


class OnLoopback:
    """A TCP transport of a reactor that is iterated by hand, and a socket for the peer."""

    reactor_name = "epoll"

    def __init__(self, stack: ExitStack, protocol: Recorder) -> None:
        self.reactor = reactor_of(self.reactor_name)
        self.protocol = protocol
        self._received = bytearray()
        self.has_ended = False
        self._reads = True
        self.peer = self._connect(stack)
        self.peer.setblocking(False)
        self.until(lambda: protocol.transport is not None)
        self.transport: Any = protocol.transport
        stack.callback(self._close)

    def _connect(self, stack: ExitStack) -> socket.socket:
        raise NotImplementedError

    def _close(self) -> None:
        self.transport.abortConnection()
        self.until(lambda: not self.transport.connected)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline
            self.turn()

    def turn(self) -> None:
        iterate(self.reactor, 0.001)
        if self._reads:
            self._read()

    def _read(self) -> None:
        try:
            while piece := self.peer.recv(1 << 20):
                self._received += piece
            self.has_ended = True
        except BlockingIOError:
            pass
        except ConnectionError:  # reported once: the next read would give an end of stream
            self._reads = False

    def send(self, data: bytes) -> None:
        assert self.peer.send(data) == len(data)

    def end(self) -> None:
        self.peer.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._reads = False
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.peer.close()

    def stop_reading(self) -> None:
        self._reads = False

    def read_on(self) -> None:
        self._reads = True

    @property
    def received(self) -> bytes:
        return bytes(self._received)


class Accepted(OnLoopback):
    def _connect(self, stack: ExitStack) -> socket.socket:
        port: Any = self.reactor.listenTCP(0, Factory.forProtocol(lambda: self.protocol), interface="127.0.0.1")
        stack.callback(iterate, self.reactor)
        stack.callback(port.stopListening)
        peer = stack.enter_context(socket.socket())
        peer.connect(("127.0.0.1", port.getHost().port))
        return peer


class Connected(OnLoopback):
    def _connect(self, stack: ExitStack) -> socket.socket:
        server = stack.enter_context(listening())
        factory = ClientFactory.forProtocol(lambda: self.protocol)
        self.reactor.connectTCP(*server.getsockname(), factory)
        while self.protocol.transport is None:
            iterate(self.reactor, 0.001)
        return stack.enter_context(server.accept()[0])


class AcceptedByAsyncio(Accepted):
    reactor_name = "asyncio"


Kind = type[InMemory | OnLoopback]
KINDS: dict[str, Kind] = {
    "in memory": InMemory,
    "accepted": Accepted,
    "connected": Connected,
    "accepted, asyncio": AcceptedByAsyncio,
}


@pytest.fixture(scope="session")
def _reactors() -> None:
    """Made first, as they open descriptors, and keep them."""
    for name in ("epoll", "asyncio"):
        iterate(reactor_of(name))


@pytest.fixture(params=KINDS)
def kind(_reactors: None, request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def connection(stack: ExitStack, kind: Kind) -> Iterator[Connection]:
    connection: Connection = kind(stack, HalfCloseableRecorder())
    yield connection
    losses = [call for call in connection.protocol.calls if isinstance(call, type)]
    assert len(losses) <= 1, "a connection is lost once"


def until(connection: Connection, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, connection.protocol.calls
        connection.turn()


def some_turns(connection: Connection) -> None:
    for _ in range(TURNS):
        connection.turn()


def calls_after(connection: Connection, number: int) -> list[Any]:
    """The protocol's calls, once there are that many."""
    until(connection, lambda: len(connection.protocol.calls) >= number)
    some_turns(connection)
    return connection.protocol.calls


def test_what_is_written_arrives_in_order_and_not_at_once(connection: Connection) -> None:
    connection.transport.write(b"one ")
    connection.transport.writeSequence([b"two ", b"three"])
    assert connection.received == b""
    until(connection, lambda: len(connection.received) == 13)
    assert (connection.received, connection.protocol.calls) == (b"one two three", [])


def test_what_the_peer_sends_arrives(connection: Connection) -> None:
    connection.send(b"question")
    until(connection, lambda: len(connection.protocol.data) == 8)
    assert connection.protocol.data == b"question"
    assert connection.protocol.calls == ["data"]


def test_a_protocol_that_has_read_its_part_can_hand_the_connection_over(connection: Connection) -> None:
    """Within `dataReceived`: all further calls are the other protocol's."""
    first, second = connection.protocol, HalfCloseableRecorder()

    def hand_over() -> None:
        connection.transport.protocol = second
        second.makeConnection(connection.transport)

    first.on["data"] = hand_over
    connection.send(b"header")
    until(connection, lambda: first.data == b"header")
    connection.send(b"question")
    connection.end()
    until(connection, lambda: len(second.calls) >= 2)
    connection.transport.write(b"answer")
    until(connection, lambda: connection.received == b"answer")
    connection.transport.loseWriteConnection()
    until(connection, lambda: len(second.calls) >= 3)
    connection.transport.loseConnection()
    assert (first.calls, bytes(second.data)) == (["data"], b"question")
    assert second.calls == ["data", "read ended", "write ended", ConnectionDone]


def test_a_paused_transport_delivers_nothing_until_it_is_resumed(connection: Connection) -> None:
    connection.transport.pauseProducing()
    connection.send(b"question")
    connection.end()
    some_turns(connection)
    assert connection.protocol.calls == []
    connection.transport.resumeProducing()
    assert connection.protocol.calls == []
    assert calls_after(connection, 2) == ["data", "read ended"]


def test_the_end_of_the_peers_stream_leaves_the_other_direction_open(connection: Connection) -> None:
    connection.send(b"question")
    connection.end()
    assert calls_after(connection, 2) == ["data", "read ended"]
    connection.transport.write(b"answer")
    until(connection, lambda: connection.received == b"answer")
    assert not connection.has_ended


def test_without_half_closes_the_end_of_the_peers_stream_loses_the_connection(stack: ExitStack, kind: Kind) -> None:
    connection: Connection = kind(stack, Recorder())
    connection.send(b"question")
    connection.end()
    assert calls_after(connection, 2) == ["data", ConnectionDone]


def test_an_end_of_stream_follows_what_is_buffered_and_leaves_the_other_direction_open(connection: Connection) -> None:
    connection.transport.write(b"answer")
    connection.transport.loseWriteConnection()
    assert connection.protocol.calls == []
    until(connection, lambda: connection.has_ended)
    assert connection.received == b"answer"
    connection.send(b"question")
    assert calls_after(connection, 2) == ["write ended", "data"]


def test_until_its_end_has_been_sent_a_stream_can_be_written_to(connection: Connection) -> None:
    connection.transport.loseWriteConnection()
    connection.transport.write(b"before the end")
    until(connection, lambda: connection.has_ended)
    connection.transport.write(b"behind it")
    some_turns(connection)
    assert (connection.received, connection.protocol.calls) == (b"before the end", ["write ended"])


def test_a_connection_both_of_whose_streams_have_ended_stays_until_it_is_closed_and_closes_at_once(
    connection: Connection,
) -> None:
    connection.end()
    until(connection, lambda: connection.protocol.calls == ["read ended"])
    connection.transport.loseWriteConnection()
    assert calls_after(connection, 2) == ["read ended", "write ended"]
    connection.transport.loseConnection()
    assert connection.protocol.calls == ["read ended", "write ended", ConnectionDone]


def test_a_close_within_the_call_for_the_last_end_is_reported_within_it(connection: Connection) -> None:
    """The portable carrier closes connections within that call."""
    recorder = connection.protocol
    recorder.on["write ended"] = lambda: connection.transport.loseConnection()
    connection.end()
    until(connection, lambda: recorder.calls == ["read ended"])
    connection.transport.loseWriteConnection()
    assert calls_after(connection, 3) == ["read ended", "write ended", ConnectionDone]


def test_a_close_waits_for_what_is_buffered_and_is_reported_in_a_later_turn(connection: Connection) -> None:
    connection.transport.write(b"answer")
    connection.transport.loseConnection()
    connection.transport.loseConnection()
    assert connection.protocol.calls == []
    until(connection, lambda: connection.has_ended)
    assert connection.received == b"answer"
    assert calls_after(connection, 1) == [ConnectionDone]


def test_a_connection_that_closes_is_not_read(connection: Connection) -> None:
    connection.stop_reading()
    connection.transport.write(b"x" * MUCH)
    connection.transport.loseConnection()
    connection.transport.resumeProducing()
    connection.send(b"question")
    some_turns(connection)
    assert connection.protocol.calls == []
    connection.read_on()
    assert calls_after(connection, 1) == [ConnectionDone]


def test_an_abort_discards_what_is_buffered_and_is_reported_in_a_later_turn(connection: Connection) -> None:
    connection.stop_reading()
    connection.transport.write(b"x" * MUCH)
    some_turns(connection)
    connection.transport.abortConnection()
    connection.transport.abortConnection()
    connection.send(b"question")
    assert connection.protocol.calls == []
    assert calls_after(connection, 1) == [ConnectionAborted]
    connection.read_on()
    some_turns(connection)
    assert len(connection.received) < MUCH
    assert not connection.has_ended


def test_an_abort_also_ends_a_connection_that_waits_to_close(connection: Connection) -> None:
    connection.stop_reading()
    connection.transport.write(b"x" * MUCH)
    connection.transport.loseConnection()
    some_turns(connection)
    assert connection.protocol.calls == []
    connection.transport.abortConnection()
    assert calls_after(connection, 1) == [ConnectionAborted]


def test_a_reset_by_the_peer_loses_the_connection(connection: Connection) -> None:
    connection.reset()
    assert calls_after(connection, 1) == [ConnectionLost]
    connection.transport.write(b"late")
    connection.transport.loseConnection()
    connection.transport.abortConnection()
    some_turns(connection)
    assert connection.protocol.calls == [ConnectionLost]


def test_a_streaming_producer_is_paused_within_a_write_that_buffers_much_and_resumed_when_all_is_written(
    connection: Connection,
) -> None:
    connection.stop_reading()
    connection.transport.registerProducer(Producer(connection.protocol), True)
    connection.transport.write(b"x" * 65536)
    assert connection.protocol.calls == []
    connection.transport.write(b"x" * (MUCH - 65536))
    assert connection.protocol.calls == ["pause"]
    some_turns(connection)
    assert connection.protocol.calls == ["pause"]
    connection.read_on()
    assert calls_after(connection, 2) == ["pause", "resume"]
    until(connection, lambda: len(connection.received) == MUCH)


def test_a_pull_producer_is_resumed_at_once_and_again_whenever_all_is_written(connection: Connection) -> None:
    connection.transport.registerProducer(Producer(connection.protocol), False)
    assert connection.protocol.calls == ["resume"]
    some_turns(connection)
    connection.transport.write(b"x")
    until(connection, lambda: connection.received == b"x")
    until(connection, lambda: len(connection.protocol.calls) >= 2)
    assert set(connection.protocol.calls) == {"resume"}
    connection.transport.unregisterProducer()


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_the_producer_is_stopped_before_the_protocol_loses_the_connection(connection: Connection, how: str) -> None:
    connection.transport.registerProducer(Producer(connection.protocol), True)
    if how == "abort":
        connection.transport.abortConnection()
    else:
        connection.reset()
    error = ConnectionAborted if how == "abort" else ConnectionLost
    assert calls_after(connection, 2) == ["stop", error]


def test_a_producer_that_comes_too_late_is_stopped_at_once(connection: Connection) -> None:
    connection.reset()
    assert calls_after(connection, 1) == [ConnectionLost]
    connection.transport.registerProducer(Producer(connection.protocol), True)
    assert connection.protocol.calls == [ConnectionLost, "stop"]


def test_a_close_waits_for_a_paused_producer_until_it_is_unregistered(connection: Connection) -> None:
    connection.stop_reading()
    connection.transport.registerProducer(Producer(connection.protocol), True)
    connection.transport.write(b"x" * MUCH)
    connection.transport.unregisterProducer()
    connection.transport.loseConnection()
    some_turns(connection)
    assert connection.protocol.calls == ["pause"]
    connection.read_on()
    assert calls_after(connection, 2) == ["pause", ConnectionDone]
    assert len(connection.received) == MUCH


def test_a_closing_connection_closes_once_its_pull_producer_is_unregistered(connection: Connection) -> None:
    connection.transport.registerProducer(Producer(connection.protocol), False)
    connection.transport.loseConnection()
    some_turns(connection)
    assert set(connection.protocol.calls) == {"resume"}
    connection.transport.unregisterProducer()
    asked = len(connection.protocol.calls)
    assert calls_after(connection, asked + 1)[asked:] == [ConnectionDone]


def test_streams_are_not_changed_on_the_way(connection: Connection) -> None:
    sent = stream(100_000)
    for start in range(0, len(sent), 10_000):
        connection.transport.write(sent[start : start + 10_000])
    until(connection, lambda: len(connection.received) == len(sent))
    assert connection.received == sent
