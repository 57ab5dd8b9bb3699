"""Stand-ins for sockets, peers, time and load, for the unit tests."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import attrs
from twisted.internet import testing as proto_helpers
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    NotConnectingError,
    UserError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IHalfCloseableProtocol,
    IListeningPort,
    IReadWriteDescriptor,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, DatagramProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import classImplements, implementer

from rproxy.agent.sampler import Load
from rproxy.carriers.carrier import Carrier
from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.events import Events, Registered
from rproxy.pool.limits import Limits
from rproxy.pool.policy import Explanation, Policy
from rproxy.pool.pool import Pool
from rproxy.sessions import sweep
from rproxy.sessions.endings import Ending, Phase
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.tap.policies import PolicyFailureLog
from rproxy.wire.pdu import Pdu, ProbeResponse, Register, decode

AGENT_PORT = 5555
IDLE = Load(cpu=10, memory=20, tcp=0)
UNLIMITED = Limits(host=10**9, registrations_per_s=math.inf, first_probes_per_s=1e9)
"""For tests that are not about the limits."""


def run(clock: Clock, seconds: float) -> None:
    """Let time pass as a reactor does: every timer runs at its own time, not all of them at the end."""
    end = clock.seconds() + seconds
    while due := [call.getTime() for call in clock.calls if call.getTime() <= end]:
        clock.rightNow = max(clock.rightNow, min(due))
        clock.advance(0)
    clock.rightNow = end


def turn(clock: Clock) -> None:
    """One turn of the reactor: unlike in `advance`, calls scheduled meanwhile wait for the next turn."""
    due = [call for call in clock.calls if call.getTime() <= clock.seconds()]
    for call in due:
        if call.active():
            clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


@contextmanager
def logged() -> Iterator[EventLoggingObserver]:
    """Collects the events that twisted.logger publishes meanwhile."""
    events = EventLoggingObserver()
    globalLogPublisher.addObserver(events)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(events)


def texts(events: EventLoggingObserver) -> list[str]:
    return [formatEvent(event) for event in events]


class Datagrams(proto_helpers.FakeDatagramTransport):
    """Keeps what is written as (PDU, address). While `error` is set, writing raises it."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        super().__init__()
        self.addressFamily = family
        self.error: Exception | None = None
        self.on_write: Callable[[Pdu, Address], None] = lambda pdu, address: None

    def write(self, packet: bytes, addr: Any = None) -> None:
        if self.error is not None:
            raise self.error
        super().write(packet, addr)
        self.on_write(decode(packet), addr)

    @property
    def sent(self) -> list[tuple[Pdu, Address]]:
        return [(decode(packet), address) for packet, address in self.written]

    def take(self) -> list[tuple[Pdu, Address]]:
        """What was sent since the last call."""
        sent = self.sent
        self.written.clear()
        return sent


class Stream(proto_helpers.StringTransport):
    """A stream transport without a socket, which buffers, pauses, half-closes and closes when Twisted's do.

    What is written reaches `value()` in the reactor's next turn; while `stalled`, the peer does not read. `receive`,
    `receive_end` and `reset` are what the peer does. `ended` is the error the connection ended with.
    """

    HIGH_WATER = 65536

    def __init__(self, clock: Clock, protocol: Any) -> None:
        super().__init__()
        self.options: dict[str, bool] = {}
        self.option_error: OSError | None = None
        self.stalled = False
        self.write_ended = False
        self.aborting = False
        self.ended: type[Exception] | None = None
        self._clock = clock
        self.protocol = protocol
        """May be replaced, as that of Twisted's own transports may."""
        self._held = bytearray()
        self._producer_paused = False
        self._write_ending = False
        self._turn_due = False

    @property
    def reading(self) -> bool:
        return bool(self.connected) and self.producerState == "producing" and not self.aborting

    @property
    def held(self) -> int:
        """Bytes buffered here."""
        return len(self._held)

    def receive(self, data: bytes) -> None:
        assert self.reading
        self.protocol.dataReceived(data)

    def receive_end(self) -> None:
        assert self.reading
        self.producerState = "paused"
        half_closeable = IHalfCloseableProtocol(self.protocol, None)
        if half_closeable is None:
            self._lose(ConnectionDone())
        else:
            half_closeable.readConnectionLost()

    def reset(self) -> None:
        self._lose(ConnectionLost())

    def unstall(self) -> None:
        self.stalled = False
        self.startWriting()

    def write(self, data: bytes) -> None:
        if not self.connected or self.write_ended:
            return
        self._held += data
        if self.producer is not None and self.streaming and self.held > self.HIGH_WATER:
            self._producer_paused = True
            self.producer.pauseProducing()
        self.startWriting()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def startWriting(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if not self.connected or self.aborting or (self.stalled and self._held):
            return
        self.io.write(self._held)
        self._held.clear()
        if self.producer is not None and (not self.streaming or self._producer_paused):
            self._producer_paused = False
            self.producer.resumeProducing()
        elif self.disconnecting:
            self._lose(ConnectionDone())
        elif self._write_ending and not self.write_ended:
            self.write_ended = True
            half_closeable = IHalfCloseableProtocol(self.protocol, None)
            if half_closeable is not None:
                half_closeable.writeConnectionLost()

    def loseConnection(self) -> None:
        if not self.connected or self.disconnecting:
            return
        self.producerState = "paused"
        if self.write_ended:
            self._lose(ConnectionDone())
        else:
            self.disconnecting = True
            self.startWriting()

    def loseWriteConnection(self) -> None:
        self._write_ending = True
        self.startWriting()

    def abortConnection(self) -> None:
        if self.connected and not self.aborting:
            self.aborting = True
            self._clock.callLater(0, self._lose, ConnectionAborted())

    def _lose(self, error: Exception) -> None:
        if not self.connected:
            return
        self.connected = False
        self.disconnected = True
        self.ended = type(error)
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(error))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.disconnected:
            producer.stopProducing()
            return
        super().registerProducer(producer, streaming)
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        if self.connected and self.disconnecting:
            self.startWriting()

    def pauseProducing(self) -> None:
        self.producerState = "paused"

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting:
            self.producerState = "producing"

    def stopProducing(self) -> None:
        self.loseConnection()

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._set("no-delay", enabled)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._set("keep-alive", enabled)

    def _set(self, name: str, enabled: bool) -> None:
        if self.option_error is not None:
            raise self.option_error
        self.options[name] = enabled


class TlsStream(Stream):
    """A TLS transport: no half-close, and a handshake that ends when the test says."""

    def shake_hands(self) -> None:
        self.protocol.handshakeCompleted()


# Hidden from mypy: the fakes have the methods that the code under test uses, not all of the interface.
_declare: Any = classImplements
_declare(Stream, ITCPTransport, IReadWriteDescriptor)
_declare(TlsStream, ISSLTransport)


@implementer(IConnector)
class Connector:
    """One `connectTCP`, which `succeed` or `fail` ends."""

    def __init__(self, reactor: Reactor, address: Address, factory: ClientFactory[Any], timeout: float | None) -> None:
        self.address = address
        self.timeout = timeout
        self.state = "connecting"
        self._reactor = reactor
        self._factory = factory
        factory.startedConnecting(self)

    def succeed(self, handle: socket.socket | None = None) -> Stream:
        """`handle` is the connection's socket, None for a transport without one."""
        assert self.state == "connecting"
        self.state = "connected"
        protocol = self._factory.buildProtocol(self.getDestination())
        assert protocol is not None
        stream = Stream(self._reactor, protocol)
        if handle is not None:
            stream.getHandle = lambda: handle  # type: ignore[attr-defined]
        protocol.makeConnection(stream)
        return stream

    def fail(self, error: Exception) -> None:
        assert self.state == "connecting"
        self.state = "disconnected"
        self._factory.clientConnectionFailed(self, Failure(error))

    def stopConnecting(self) -> None:
        if self.state != "connecting":
            raise NotConnectingError
        self.fail(UserError())

    def connect(self) -> None:
        raise AssertionError("no attempt is repeated")

    def disconnect(self) -> None:
        raise AssertionError("sessions end their own connections")

    def getDestination(self) -> IAddress:
        return IPv4Address("TCP", *self.address)


@implementer(IListeningPort)
class Port:
    """A listener that is open until stopped."""

    def __init__(
        self, kind: Literal["TCP", "UDP"], port: int, interface: str, protocol: DatagramProtocol | None = None
    ) -> None:
        self.open = True
        self._protocol = protocol
        make = IPv6Address if ":" in interface else IPv4Address
        self._address = make(kind, interface or "0.0.0.0", port)

    def startListening(self) -> None:
        self.open = True

    def stopListening(self) -> Deferred[None]:
        self.open = False
        if self._protocol is not None:
            self._protocol.doStop()
        return succeed(None)

    def getHost(self) -> Any:
        return self._address


class Reactor(proto_helpers.MemoryReactorClock):
    """Twisted's in-memory reactor, with UDP, with connectors that can succeed or fail, and with ports in use.

    `taken` holds the port numbers on which listening fails with `listen_error`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hasStopped = False  # True in Twisted up to 25.5 until it runs
        self.taken: set[int] = set()
        self.listen_error = OSError(98, "Address already in use")
        self.ports: list[Port] = []
        self.datagrams: list[Datagrams] = []
        self.connects: list[Connector] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        opened = self._open("TCP", port, interface)
        super().listenTCP(port, factory, backlog, interface)
        return opened

    def listenUDP(
        self,
        port: int,
        protocol: DatagramProtocol,
        interface: str = "",
        maxPacketSize: int = 8192,  # noqa: N803
    ) -> Port:
        opened = self._open("UDP", port, interface, protocol)
        transport = Datagrams(socket.AF_INET6 if ":" in interface else socket.AF_INET)
        self.datagrams.append(transport)
        protocol.makeConnection(transport)
        return opened

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float | None = 30,
        bindAddress: Any = None,  # noqa: N803
    ) -> Connector:
        connector = Connector(self, (host, port), factory, timeout)
        self.connects.append(connector)
        return connector

    @property
    def open_ports(self) -> list[Port]:
        return [port for port in self.ports if port.open]

    def _open(
        self, kind: Literal["TCP", "UDP"], port: int, interface: str, protocol: DatagramProtocol | None = None
    ) -> Port:
        if port in self.taken:
            raise CannotListenError(interface, port, self.listen_error)
        opened = Port(kind, port or 40000 + len(self.ports), interface, protocol)
        self.ports.append(opened)
        return opened


@attrs.define
class StubSampler:
    """Returns `load`, or raises `error` while it is set."""

    load: Load = Load(cpu=17, memory=89, tcp=5)
    error: Exception | None = None
    asked: int = 0

    def sample(self) -> Load:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.load


class CountingPolicy:
    """Chooses the first eligible back-end, and counts the calls about each."""

    def __init__(self) -> None:
        self.told: dict[str, Counter[Backend]] = {
            event: Counter() for event in ("opened", "closed", "failed", "reported")
        }
        self.clients: list[Address | None] = []
        """Whom back-ends were chosen for."""
        self.error: Exception | None = None
        self.reason = ""

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        self.clients.append(client)
        return next((each for each in eligible if each not in exclude), None)

    def opened(self, backend: Backend, now: float) -> None:
        self.told["opened"][backend] += 1

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        self.told["closed"][backend] += 1

    def failed(self, backend: Backend, now: float) -> None:
        self.told["failed"][backend] += 1

    def reported(self, backend: Backend, now: float) -> str | None:
        if self.error is not None:
            raise self.error
        self.told["reported"][backend] += 1
        return self.reason

    def explain(self, backend: Backend, now: float) -> Explanation:
        return Explanation(float(backend.slot), {"slot": float(backend.slot)})


class RaisingPolicy(CountingPolicy):
    """Raises in the methods named in `broken`, `times` times in all."""

    def __init__(self, *broken: str) -> None:
        super().__init__()
        self.broken = set(broken)
        self.times = math.inf

    def _fail(self, where: str) -> None:
        if where in self.broken and self.times:
            self.times -= 1
            raise ValueError(f"a bug in {where}")

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        self._fail("choose")
        return super().choose(eligible, client, exclude, now)

    def opened(self, backend: Backend, now: float) -> None:
        super().opened(backend, now)
        self._fail("opened")

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        super().closed(backend, now, served_s)
        self._fail("closed")

    def failed(self, backend: Backend, now: float) -> None:
        super().failed(backend, now)
        self._fail("failed")

    def reported(self, backend: Backend, now: float) -> str | None:
        reason = super().reported(backend, now)
        self._fail("reported")
        return reason

    def explain(self, backend: Backend, now: float) -> Explanation:
        self._fail("explain")
        return super().explain(backend, now)


def connected(carrier: Carrier) -> list[Session]:
    """All connected sessions of a carrier."""
    return [session for sessions in sweep.connected(carrier.slices)() for session in sessions]


class FakeLink:
    """A `Link` whose session carries what the test says; `cut` calls `on_cut`, which notes it in `cuts`."""

    def __init__(self, address: str = "192.0.2.1:1234") -> None:
        self.address = address
        self.up = 0
        self.down = 0
        self.held = 0
        """Bytes unsent."""
        self.has_waiting_reader = False
        self.unheard_s = 0.0
        """Seconds since either side was last heard."""
        self.probes = 0
        self.cuts: list[Ending] = []
        self.on_cut: Callable[[Ending], object] = self.cuts.append

    def client_address(self) -> str:
        return self.address

    def client(self) -> Address | None:
        host, colon, port = self.address.rpartition(":")
        return (host.strip("[]"), int(port)) if colon else None

    def peer_address(self) -> Address | None:
        return self.client()

    def destination(self) -> Address | None:
        return "192.0.2.2", 80

    def carried(self) -> tuple[int, int]:
        return self.up, self.down

    def unsent(self) -> int:
        return self.held

    def waits_for_reader(self) -> bool:
        return self.has_waiting_reader

    def has_vanished(self, after_s: float) -> bool:
        return self.unheard_s >= after_s

    def probe_backend(self) -> None:
        self.probes += 1

    def backend_heard(self, within_s: float) -> bool:
        return self.unheard_s <= within_s

    def cut(self, ending: Ending) -> None:
        self.on_cut(ending)


class LinkedSessions:
    """Sessions of a service on fake links, listed in slices of two; `cut` has those that were cut, and how."""

    def __init__(self, service: Service) -> None:
        self.links: dict[Session, FakeLink] = {}
        self.cut: list[tuple[Session, Ending]] = []
        self.error: Exception | None = None
        self._service = service

    def open(self, *, connected: bool = True) -> Session:
        link = FakeLink()
        session = Session(self._service, link)
        if connected:
            session.phase = Phase.CONNECTED
        self.links[session] = link
        link.on_cut = partial(self._cut, session)
        return session

    def _cut(self, session: Session, ending: Ending) -> None:
        del self.links[session]
        self.cut.append((session, ending))

    def slices(self) -> Iterator[list[Session]]:
        if self.error is not None:
            raise self.error
        sessions = list(self.links)
        for start in range(0, len(sessions), 2):
            yield [session for session in sessions[start : start + 2] if session in self.links]


def pool_of(policy: Policy | None = None, **options: Any) -> Pool:
    """A pool as a proxy has it: exceptions of its policy are logged, once as long as no time passes."""
    return Pool(CountingPolicy() if policy is None else policy, PolicyFailureLog(lambda: 0.0), **options)


def registered(pool: Pool, address: str, now: float = 0.0, *, service_port: int = 80) -> Backend:
    """A back-end that has registered, and not been probed yet."""
    event, *_ = pool.register((address, AGENT_PORT), Register(service_port, 20_000, instance=1), now)
    assert isinstance(event, Registered)
    return event.backend


def confirm(
    pool: Pool, backend: Backend, *, token: int, now: float = 0.0, load: Load = IDLE, draining: bool = False
) -> Events:
    """Probe a registered back-end and have it answer 10 ms later."""
    request = pool.probe(backend, backend.registration, token, now).request
    pdu = ProbeResponse(request.sequence, token, load.cpu, load.memory, load.application, load.tcp, draining)
    return pool.respond(backend.registration.agent, pdu, now + 0.010)


def pool_with(up: int, policy: Policy | None = None) -> Pool:
    """A pool with that many back-ends up: 10.0.0.1, 10.0.0.2 …, each on port 80."""
    pool = pool_of(policy, limits=UNLIMITED)
    for number in range(1, up + 1):
        confirm(pool, registered(pool, f"10.0.0.{number}"), token=number)
    return pool
