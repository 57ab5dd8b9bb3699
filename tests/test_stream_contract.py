"""`fakes.Stream` does what Twisted's own TCP transports do: each statement is made of both.

The unit tests of the portable carrier stand on it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, TypeVar, cast

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.carriers.loopback import reset, tcp_pair
from tests.fakes import Stream, run

T = TypeVar("T")
on_the_reactor: Callable[[T], T] = pytest_twisted.ensureDeferred
BUFFER = 4096
"""Bytes, of each of the kernel's: so that the transport has to hold what is more."""
LARGE = b"0123456789abcdef" * 16384
"""More than the kernel and a transport take together before a producer is paused."""
TURN_S = 0.01
TURNS = 500
QUIET_TURNS = 5


class Closing(Protocol):
    """Knows of no half-close."""

    def __init__(self) -> None:
        self.data = b""
        self.told: list[object] = []

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.told.append(reason.type)


@implementer(IHalfCloseableProtocol)
class HalfClosing(Closing):
    def readConnectionLost(self) -> None:
        self.told.append("read")

    def writeConnectionLost(self) -> None:
        self.told.append("write")


def transport_of(protocol: Protocol) -> Any:
    return protocol.transport


class Producer:
    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class Fake:
    """The test's transport, and its peer."""

    def __init__(self, protocol: Protocol, _: ExitStack) -> None:
        self._clock = Clock()
        self._stream = Stream(self._clock, protocol)
        protocol.makeConnection(self._stream)
        self.send = self._stream.receive
        self.end = self._stream.receive_end
        self.reset = self._stream.reset

    def stop_reading(self) -> None:
        self._stream.stalled = True

    def go_on_reading(self) -> None:
        self._stream.unstall()

    @property
    def received(self) -> bytes:
        return bytes(self._stream.value())

    @property
    def ended(self) -> bool:
        return self._stream.write_ended or not self._stream.connected

    async def turn(self) -> None:
        run(self._clock, TURN_S)


class Real:
    """The same of a TCP connection on the loopback address."""

    def __init__(self, protocol: Protocol, stack: ExitStack) -> None:
        from twisted.internet import reactor

        self._reactor = cast(Any, reactor)
        near, self._far = stack.enter_context(tcp_pair(buffer=BUFFER))
        self._reactor.adoptStreamConnection(near.fileno(), socket.AF_INET, Factory.forProtocol(lambda: protocol))
        near.close()
        stack.callback(transport_of(protocol).abortConnection)
        self.received, self.ended, self._reads = b"", False, True
        self.send: Callable[[bytes], object] = self._far.sendall

    def end(self) -> None:
        self._far.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._reads = False
        reset(self._far)

    def stop_reading(self) -> None:
        self._reads = False

    def go_on_reading(self) -> None:
        self._reads = True

    async def turn(self) -> None:
        await deferLater(self._reactor, TURN_S)
        with suppress(BlockingIOError, ConnectionResetError):
            while self._reads and not self.ended:
                data = self._far.recv(1 << 20)
                self.received += data
                self.ended = not data


Peer = Fake | Real
Connect = Callable[[Protocol], Peer]


@pytest.fixture(params=[Fake, Real], ids=["fake", "TCP"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with ExitStack() as stack:
        yield lambda protocol: request.param(protocol, stack)


async def until(peer: Peer, condition: Callable[[], bool]) -> None:
    for _ in range(TURNS):
        if condition():
            return
        await peer.turn()
    raise AssertionError(f"not within {TURNS} turns")


async def settled(peer: Peer) -> None:
    for _ in range(QUIET_TURNS):
        await peer.turn()


@on_the_reactor
async def test_what_is_written_arrives_in_order_and_in_a_later_turn(connect: Connect) -> None:
    protocol = HalfClosing()
    peer = connect(protocol)
    transport_of(protocol).write(b"one ")
    transport_of(protocol).writeSequence([b"two ", b"three"])
    assert peer.received == b""
    await until(peer, lambda: peer.received == b"one two three")
    peer.send(b"answer")
    await until(peer, lambda: protocol.data == b"answer")
    assert protocol.told == []


@on_the_reactor
async def test_after_the_peers_end_one_may_still_write(connect: Connect) -> None:
    protocol = HalfClosing()
    peer = connect(protocol)
    peer.end()
    await until(peer, lambda: protocol.told == ["read"])
    transport_of(protocol).write(b"still")
    await until(peer, lambda: peer.received == b"still")
    assert protocol.told == ["read"]


@on_the_reactor
async def test_the_peers_end_is_all_for_who_knows_of_no_half_close(connect: Connect) -> None:
    protocol = Closing()
    peer = connect(protocol)
    peer.end()
    await until(peer, lambda: protocol.told == [ConnectionDone])


@pytest.mark.parametrize("kind", [Closing, HalfClosing])
@on_the_reactor
async def test_a_reset_is_no_clean_end(connect: Connect, kind: type[Closing]) -> None:
    protocol, producer = kind(), Producer()
    peer = connect(protocol)
    transport_of(protocol).registerProducer(producer, True)
    peer.reset()
    await until(peer, lambda: protocol.told == [ConnectionLost])
    assert producer.told == ["stop"]


@on_the_reactor
async def test_an_end_of_writing_follows_what_was_written_and_nothing_follows_it(connect: Connect) -> None:
    protocol = HalfClosing()
    peer = connect(protocol)
    peer.stop_reading()
    transport_of(protocol).write(LARGE)
    transport_of(protocol).loseWriteConnection()
    await settled(peer)
    assert protocol.told == []
    peer.go_on_reading()
    await until(peer, lambda: peer.ended)
    assert peer.received == LARGE
    await until(peer, lambda: protocol.told == ["write"])
    transport_of(protocol).write(b"too late")
    peer.send(b"answer")
    await until(peer, lambda: protocol.data == b"answer")
    assert peer.received == LARGE


@on_the_reactor
async def test_who_has_ended_writing_is_gone_at_once_when_he_closes(connect: Connect) -> None:
    protocol = HalfClosing()
    peer = connect(protocol)
    transport_of(protocol).loseWriteConnection()
    await until(peer, lambda: protocol.told == ["write"])
    transport_of(protocol).loseConnection()
    assert protocol.told == ["write", ConnectionDone]


@on_the_reactor
async def test_a_close_follows_what_was_written(connect: Connect) -> None:
    protocol = HalfClosing()
    peer = connect(protocol)
    peer.stop_reading()
    transport_of(protocol).write(LARGE)
    transport_of(protocol).loseConnection()
    transport_of(protocol).loseConnection()
    await settled(peer)
    assert protocol.told == []
    peer.go_on_reading()
    await until(peer, lambda: peer.ended)
    assert peer.received == LARGE
    await until(peer, lambda: protocol.told == [ConnectionDone])


@on_the_reactor
async def test_an_abort_waits_for_nothing_but_a_turn(connect: Connect) -> None:
    protocol = HalfClosing()
    peer = connect(protocol)
    peer.stop_reading()
    transport_of(protocol).write(LARGE)
    transport_of(protocol).abortConnection()
    assert protocol.told == []
    await until(peer, lambda: protocol.told == [ConnectionAborted])
    assert len(peer.received) < len(LARGE)


@on_the_reactor
async def test_a_producer_is_paused_while_more_than_64_kib_are_held(connect: Connect) -> None:
    protocol, producer = HalfClosing(), Producer()
    peer = connect(protocol)
    peer.stop_reading()
    transport = transport_of(protocol)
    transport.registerProducer(producer, True)
    transport.write(LARGE[: Stream.HIGH_WATER])
    assert producer.told == []
    transport.write(LARGE)
    assert producer.told == ["pause"]
    await settled(peer)
    assert producer.told == ["pause"]
    peer.go_on_reading()
    await until(peer, lambda: producer.told == ["pause", "resume"])
    await until(peer, lambda: len(peer.received) == Stream.HIGH_WATER + len(LARGE))


@on_the_reactor
async def test_a_pull_producer_is_asked_again_when_all_is_gone(connect: Connect) -> None:
    protocol, producer = HalfClosing(), Producer()
    peer = connect(protocol)
    peer.stop_reading()
    transport = transport_of(protocol)
    transport.registerProducer(producer, False)
    assert producer.told == ["resume"]
    transport.write(LARGE)
    await settled(peer)
    assert producer.told == ["resume"]
    peer.go_on_reading()
    await until(peer, lambda: producer.told[1:] == ["resume"])
    await until(peer, lambda: peer.received == LARGE)


@on_the_reactor
async def test_a_close_waits_for_a_producer_that_was_paused(connect: Connect) -> None:
    protocol, producer = HalfClosing(), Producer()
    peer = connect(protocol)
    peer.stop_reading()
    transport = transport_of(protocol)
    transport.registerProducer(producer, True)
    transport.write(LARGE)
    transport.loseConnection()
    peer.go_on_reading()
    await until(peer, lambda: producer.told == ["pause", "resume"])
    await settled(peer)
    assert protocol.told == []
    transport.unregisterProducer()
    await until(peer, lambda: protocol.told == [ConnectionDone])
    await until(peer, lambda: peer.received == LARGE)


@on_the_reactor
async def test_a_producer_that_comes_too_late_is_stopped(connect: Connect) -> None:
    protocol, producer = Closing(), Producer()
    peer = connect(protocol)
    transport_of(protocol).loseConnection()
    await until(peer, lambda: protocol.told == [ConnectionDone])
    transport_of(protocol).registerProducer(producer, True)
    assert producer.told == ["stop"]
    transport_of(protocol).write(b"nor is anything sent")
    await settled(peer)
    assert peer.received == b""
