"""The portable carrier: a Factory and a paired client Protocol, on any endpoint and any reactor.

The report's TrataClienteTCP (chapter 4.2). Bytes go from one transport straight to its peer's; each transport is the
other's producer, so a slow reader stops the reading for it and nothing piles up. An end of stream is passed on as
one, a reset as a reset.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectBindError, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IConsumer,
    IHalfCloseableProtocol,
    IListeningPort,
    IPushProducer,
    IReactorTCP,
    IReadDescriptor,
    ISSLTransport,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carrying.deadlines import Deadlines
from rproxy.carrying.flush import Flush
from rproxy.carrying.room import Room
from rproxy.carrying.session import (
    EARLY_MAX,
    EARLY_S,
    FLUSH_BACKEND_S,
    FLUSH_CLIENT_S,
    LOCAL_ERRORS,
    Balancer,
    Ending,
    Session,
)
from rproxy.carrying.sockets import is_broken, socket_of, unacknowledged, was_reset
from rproxy.pool.backend import Backend

_PAUSED_POLL_S: Final = 0.2


class StreamTransport(ITCPTransport, IConsumer, IPushProducer):
    """What Twisted's stream transports provide together. TLS lacks the half-close, UNIX sockets TCP's own options."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class Side(Protocol):
    """One of a session's two connections."""

    transport: StreamTransport
    deadlines: Deadlines
    session: Session
    peer: Side | None = None
    lost = False
    _read_ended = False
    _write_ended = False

    def connectionMade(self) -> None:
        handle = socket_of(self.transport)
        if handle is not None and handle.family != socket.AF_UNIX:
            with suppress(OSError):  # the peer may be gone already
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

    def join(self, peer: Side) -> None:
        """Carry what arrives here to `peer` from now on, as fast as `peer` takes it."""
        self.peer = peer
        peer.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The peer is lost, and tells so itself."""

    def readConnectionLost(self) -> None:
        """An end of stream from this side; or a reset, which the epoll reactor may tell as one (see `is_broken`)."""
        if is_broken(self.transport):
            self.transport.abortConnection()
        else:
            self._end_of_stream()

    def _end_of_stream(self) -> None:
        self._read_ended = True
        if self.peer is not None:
            self.session.half_close()
            self.peer.end_writing()
        self._close_if_done()

    def end_writing(self) -> None:
        """The peer has ended its stream: end ours, after what it sent."""
        if self.lost:
            return
        self.transport.unregisterProducer()
        if ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()  # TLS here has no half-close
        else:
            self.transport.loseWriteConnection()

    def end(self) -> None:
        """The peer's connection is over, in good order: so is this one, after what it sent."""
        if self.lost:
            return
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        # which waits for this side to read
        self.deadlines.arm(self, FLUSH_CLIENT_S, self.transport.abortConnection)

    def writeConnectionLost(self) -> None:
        """What was to be written is, and the end of stream with it."""
        self._write_ended = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._read_ended and self._write_ended:
            self.transport.loseConnection()

    def reset_flushed(self, within_s: float) -> None:
        """Reset this side as soon as it has what was read for it, or the time is over."""
        if self.lost:
            return
        self.transport.unregisterProducer()
        Flush(self, within_s).start()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self.deadlines.disarm(self)


class ClientSide(Side):
    """The accepted connection. Keeps what the client sends early, and finds it a back-end.

    Nothing is read from it beyond `EARLY_MAX` bytes before there is one.
    """

    def __init__(self, carrier: PortableCarrier, session: Session) -> None:
        self.carrier = carrier
        self.deadlines = carrier.deadlines
        self.session = session
        self._keeps = False
        """Whether what is sent to the back-end is kept, too."""
        self._connector: IConnector | None = None

    def __str__(self) -> str:
        return str(self.transport.getPeer())

    def connectionMade(self) -> None:
        super().connectionMade()
        self.carrier.clients.add(self)
        self.connect_next()

    def connect_next(self) -> None:
        """Connect to the session's next back-end, or let the client wait for one, or let it go."""
        backend = self.session.next()
        if backend is None:
            if self.session.wait(self.connect_next):
                return
            self.session.give_up()
            self.transport.loseConnection()
            return
        self.deadlines.arm(self, self.session.patience_s(), self.stop_connecting)
        self._connector = self.carrier.connect(self, backend)

    def stop_connecting(self) -> None:
        """Give the present try up."""
        if self._connector is not None:
            self._connector.stopConnecting()

    def connect_failed(self, *, blame: bool) -> None:
        self.deadlines.disarm(self)
        self._connector = None
        if self.lost:
            self._gone()
        elif self.session.ended_as is None:
            self.session.failed(blame=blame)
            self.connect_next()

    def _gone(self) -> None:
        """Lost before there was a back-end."""
        self.session.ended(Ending.CLIENT_GONE)
        self.carrier.clients.discard(self)
        self.carrier.room.leave()

    def connect_succeeded(self, backend_side: BackendSide) -> None:
        """The back-end is there: hand over what came early, then carry both ways."""
        session = self.session
        self._connector = None
        if self.lost:
            self._deliver(backend_side)
            return
        if session.ended_as is not None:
            backend_side.transport.abortConnection()
            return
        session.connected()
        self.join(backend_side)
        backend_side.join(self)
        self._keeps = True
        self.deadlines.arm(self, EARLY_S, self._grow)
        if session.early:
            if len(session.early) >= EARLY_MAX and not self._read_ended:
                self.resumeProducing()
            backend_side.transport.write(session.early)
        if self._read_ended:
            session.half_close()
            backend_side.end_writing()

    def _deliver(self, backend_side: BackendSide) -> None:
        """The client has reset meanwhile: its back-end gets what it sent before, and the reset."""
        self.deadlines.disarm(self)
        self.carrier.clients.discard(self)
        session = self.session
        session.connected()
        self.peer, backend_side.peer = backend_side, self
        backend_side.transport.write(session.early)
        session.ended(Ending.CLIENT_RESET)
        backend_side.reset_flushed(FLUSH_BACKEND_S)

    def _grow(self) -> None:
        self._keeps = False
        self.session.grown()

    def dataReceived(self, data: bytes) -> None:
        session = self.session
        peer = self.peer
        if peer is None:
            session.early += data
            if len(session.early) >= EARLY_MAX:
                self.pauseProducing()
        elif self._keeps:
            self._keep(data)
        session.up += len(data)
        if peer is not None:
            peer.transport.write(data)

    def _keep(self, data: bytes) -> None:
        """For another back-end, if this one ends before it has answered."""
        session = self.session
        if session.down:
            session.greeted |= not session.up
        elif len(session.early) + len(data) <= EARLY_MAX:
            session.early += data
            return
        self._keeps = False
        session.early = b""

    def another(self, *, reset: bool) -> bool:
        """The back-end has ended the connection before it sent a byte. Whether the client is given to another."""
        peer = self.peer
        if self.lost or peer is None or not self.session.ended_early(self.session.up, reset=reset):
            return False
        self.peer = peer.peer = None
        self._keeps = False
        self.deadlines.disarm(self)
        self.transport.unregisterProducer()
        if not peer.lost:
            peer.transport.unregisterProducer()
            peer.transport.abortConnection()
        if not self._read_ended:
            if len(self.session.early) >= EARLY_MAX:
                self.pauseProducing()
            else:
                self.resumeProducing()
        self.connect_next()
        return True

    def _end_of_stream(self) -> None:
        super()._end_of_stream()
        session = self.session
        if session.waited and session.backend is None and not session.early:
            self.transport.loseConnection()  # one that has said nothing has gone

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self.deadlines.arm(self.session, _PAUSED_POLL_S, self._check_paused)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self.deadlines.disarm(self.session)

    def _check_paused(self) -> None:
        """A client that resets while its back-end reads nothing must not hold that back-end's connection."""
        if was_reset(self.transport):
            self.transport.abortConnection()
        else:
            self.deadlines.arm(self.session, _PAUSED_POLL_S, self._check_paused)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.deadlines.disarm(self.session)
        clean = reason.check(ConnectionDone) is not None
        if self.peer is None:
            self._lost_early(clean)
            return
        self.carrier.clients.discard(self)
        if self.peer.lost:
            self.carrier.room.leave()
        if clean:
            self.session.ended(Ending.CLOSED)
            self.peer.end()
        else:
            self.session.ended(Ending.CLIENT_RESET)
            self.peer.reset_flushed(FLUSH_BACKEND_S)

    def _lost_early(self, clean: bool) -> None:
        if self._connector is None:
            self._gone()
        elif not clean and self.session.ended_as is None:  # so that the reset arrives there, after what came before it
            self.deadlines.arm(self, FLUSH_BACKEND_S, self.stop_connecting)
        else:
            self.stop_connecting()


class BackendSide(Side):
    """The connection to the chosen back-end."""

    def __init__(self, client: ClientSide) -> None:
        self._client = client
        self.deadlines = client.deadlines
        self.session = client.session

    def connectionMade(self) -> None:
        super().connectionMade()
        self._client.connect_succeeded(self)

    def dataReceived(self, data: bytes) -> None:
        self.session.down += len(data)
        self._client.transport.write(data)

    def _end_of_stream(self) -> None:
        if self.peer is None or self.session.down or not self._client.another(reset=False):
            super()._end_of_stream()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self.peer is None:
            return
        if self.peer.lost:
            self._client.carrier.room.leave()
            return
        clean = reason.check(ConnectionDone) is not None
        if not self.session.down and self._client.another(reset=not clean):
            return
        if clean:
            self.peer.end()
        else:
            self.session.ended(Ending.BACKEND_RESET)
            self.peer.reset_flushed(FLUSH_CLIENT_S)


class _BackendFactory(ClientFactory):
    """One try to connect."""

    noisy = False

    def __init__(self, client: ClientSide) -> None:
        self._client = client

    def buildProtocol(self, addr: IAddress | None) -> BackendSide:
        return BackendSide(self._client)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        local = reason.check(ConnectBindError) or getattr(reason.value, "osError", None) in LOCAL_ERRORS
        self._client.connect_failed(blame=not local)


class _ClientFactory(Factory[ClientSide]):
    noisy = False

    def __init__(self, carrier: PortableCarrier, balancer: Balancer) -> None:
        self.carrier = carrier
        self._balancer = balancer

    def buildProtocol(self, addr: IAddress | None) -> ClientSide:
        side = ClientSide(self.carrier, self._balancer.open(None))
        side.session.client = side
        self.carrier.room.enter()
        return side


class PortableCarrier:
    """A `Carrier` of Twisted's own transports."""

    def __init__(self, reactor: IReactorTCP, balancer: Balancer, deadlines: Deadlines, room: Room) -> None:
        self.deadlines = deadlines
        self.room = room
        self.clients: set[ClientSide] = set()
        self.factory = _ClientFactory(self, balancer)
        self._reactor = reactor
        self._ports: list[Any] = []
        room.when_full(self._pause)

    def serve(self, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        return endpoint.listen(self.factory).addCallback(self._opened)

    def _opened(self, port: IListeningPort) -> IListeningPort:
        if IReadDescriptor.providedBy(port):
            self._ports.append(port)
            descriptor: Any = port
            descriptor.doRead = partial(self._accept, descriptor, descriptor.doRead)
        return port

    def hand_over(self, port: IListeningPort) -> None:
        """From now on somebody else accepts on `port`, and pauses it."""
        self._ports.remove(port)

    def _accept(self, port: Any, accept: Callable[[], None]) -> None:
        """Accept no more than there is room for, though Twisted would accept `numberAccepts` in one go."""
        port.numberAccepts = max(min(port.numberAccepts, self.room.sessions_max - self.room.sessions), 0)
        accept()

    def _pause(self) -> None:
        for port in self._ports:
            port.stopReading()
        self.room.wait(self._resume)

    def _resume(self) -> None:
        self._ports = [port for port in self._ports if port.connected]
        for port in self._ports:
            if not port.disconnecting:
                port.startReading()

    def connect(self, client: ClientSide, backend: Backend) -> IConnector:
        """Start to connect to `backend`; the deadline is the session's, so Twisted's own is off."""
        factory = _BackendFactory(client)
        return self._reactor.connectTCP(backend.address, backend.port, factory, timeout=None)  # type: ignore[arg-type]

    def heed(self, descriptor: int) -> None:
        """Each of its sockets is one of the reactor's."""

    def ignore(self, descriptor: int) -> None:
        """It has never heeded any."""

    def connected(self) -> Iterator[Session]:
        return (client.session for client in self.clients if client.session.is_connected)

    def carried(self, session: Session) -> int:
        return session.up + session.down

    def counts(self, session: Session) -> tuple[int, int]:
        return session.up, session.down

    def unsent(self, session: Session) -> int:
        return sum(unacknowledged(side.transport) for side in self._sides(session.client))

    def cut(self, session: Session, ending: Ending) -> None:
        session.ended(ending)
        for side in self._sides(session.client):
            side.transport.abortConnection()
        session.client.stop_connecting()  # type: ignore[attr-defined]

    def _sides(self, client: object) -> list[Side]:
        assert isinstance(client, ClientSide)
        return [side for side in (client, client.peer) if side is not None and not side.lost]

    def abort(self) -> None:
        for client in list(self.clients):
            self.cut(client.session, Ending.STOPPED)
