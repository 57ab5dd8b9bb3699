"""The portable carrier: a Factory and a paired client Protocol, on any endpoint and any reactor.

The report's TrataClienteTCP (chapter 4.2). Bytes go from one transport straight to its peer's; each transport is the
other's producer, so a slow reader stops the reading for it and nothing piles up. An end of stream is passed on as
one, a reset as a reset.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectBindError, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IHandshakeListener,
    IListeningPort,
    IReactorTCP,
    ISSLTransport,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import ClientFactory, Factory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carriers.portable.ports import Ports
from rproxy.carriers.portable.side import Side
from rproxy.carriers.portable.wrappers import pass_on
from rproxy.net.addresses import unmapped, written
from rproxy.net.tcp_options import has_urgent_in_line, keep_alive, keep_urgent_in_line, prepare_listener, probe_soon
from rproxy.net.tcp_state import (
    has_acknowledged,
    has_vanished,
    is_self_connected,
    socket_of,
    unacknowledged,
    waits_for_reader,
    was_reset,
)
from rproxy.pool.backend import Backend
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.carrier import SLICE
from rproxy.sessions.endings import Ending
from rproxy.sessions.redispatch import EARLY_DATA_MAX, EARLY_END_S
from rproxy.sessions.service import Service
from rproxy.sessions.session import FLUSH_BACKEND_S, FLUSH_CLIENT_S, LOCAL_ERRORS, Session
from rproxy.timing.wheel import Wheel

HANDSHAKE_S: Final = 10.0
"""The time for the whole TLS handshake of a client, and for its answer when it is turned away."""
_PAUSED_POLL_S: Final = 0.2
_YOUNG_S: Final = 0.2


@implementer(IHandshakeListener)
class ClientSide(Side):
    """The accepted connection. Keeps what the client sends early, and finds it a back-end.

    Nothing is read from it beyond `EARLY_DATA_MAX` bytes before there is one.
    """

    def __init__(self, carrier: PortableCarrier) -> None:
        self.carrier = carrier
        self.deadlines = carrier.deadlines
        self._keeps = False
        """Whether what is sent to the back-end is kept, too."""
        self._connector: IConnector | None = None

    def connectionMade(self) -> None:
        handle = socket_of(self.transport)
        if handle is not None and not has_urgent_in_line(handle):  # not inherited
            prepare_listener(handle)
        pass_on(self)
        self.carrier.clients.add(self)
        if ISSLTransport.providedBy(self.transport):
            self.deadlines.arm(self, HANDSHAKE_S, self.transport.abortConnection)
        else:
            self.connect_next()

    def handshakeCompleted(self) -> None:
        """A TLS client is one: not before, it gets a back-end."""
        self.deadlines.disarm(self)
        self.session.handshake_completed()
        self.connect_next()

    def connect_next(self) -> None:
        """Connect to the session's next back-end, or let the client wait for one, or let it go."""
        backend = self.session.choose_backend()
        if backend is None:
            if self.session.wait_for_backend(self.connect_next):
                return
            self._let_go()
            return
        self.deadlines.arm(self, self.session.connect_timeout_s(), self.stop_connecting)
        self._connector = self.carrier.connect(self, backend)

    def _let_go(self) -> None:
        """There is nobody for it. What it has sent is lost: a clean end would tell it otherwise."""
        self.session.give_up()
        if self.session.up:
            self.transport.abortConnection()
        else:
            self.deadlines.arm(self, HANDSHAKE_S, self.transport.abortConnection)
            self.transport.loseConnection()  # TLS waits for the client's word

    def stop_connecting(self) -> None:
        """Give the present try up."""
        if self._connector is not None:
            self._connector.stopConnecting()

    def connect_failed(self, *, blame: bool) -> None:
        self.deadlines.disarm(self)
        self._connector = None
        if self.lost:
            self._gone()
        elif self.session.ending is None:
            self.session.connect_failed(backend_fault=blame)
            self.connect_next()

    def _gone(self) -> None:
        """Lost before there was a back-end."""
        self.session.ended(Ending.CLIENT_GONE)
        self.over()

    def connect_succeeded(self, backend_side: BackendSide) -> None:
        """The back-end is there: hand over what came early, then carry both ways."""
        session = self.session
        self._connector = None
        if self.lost:
            self._deliver(backend_side)
            return
        if session.ending is not None:
            backend_side.transport.abortConnection()
            return
        session.connected()
        self.join(backend_side)
        backend_side.join(self)
        self._keeps = True
        self.deadlines.arm(self, EARLY_END_S, self._grow)
        if session.early_data:
            if len(session.early_data) >= EARLY_DATA_MAX and not self.read_ended:
                self.resumeProducing()
            backend_side.transport.write(session.early_data)
        if self.read_ended:
            session.half_close()
            backend_side.end_writing()

    def _deliver(self, backend_side: BackendSide) -> None:
        """The client has reset meanwhile: its back-end gets what it sent before, and the reset."""
        self.deadlines.disarm(self)
        session = self.session
        session.connected()
        self.peer, backend_side.peer = backend_side, self
        backend_side.transport.write(session.early_data)
        session.ended(Ending.CLIENT_RESET)
        backend_side.reset_flushed(FLUSH_BACKEND_S)

    def _grow(self) -> None:
        self._keeps = False
        self.session.settled()

    def dataReceived(self, data: bytes) -> None:
        session = self.session
        peer = self.peer
        if peer is None:
            session.early_data += data
            if len(session.early_data) >= EARLY_DATA_MAX:
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
            session.backend_spoke_first |= not session.up
        elif len(session.early_data) + len(data) <= EARLY_DATA_MAX:
            session.early_data += data
            return
        self._keeps = False
        session.early_data = b""

    def another(self, *, reset: bool) -> bool:
        """The back-end has ended the connection before it sent a byte. Whether the client is given to another."""
        peer = self.peer
        if self.lost or peer is None or not self.session.try_redispatch(self.session.up, reset=reset):
            return False
        self.peer = peer.peer = None
        self._keeps = False
        self.deadlines.disarm(self)
        self.transport.unregisterProducer()
        if not peer.lost:
            peer.transport.unregisterProducer()
            peer.transport.abortConnection()
        if not self.read_ended:
            if len(self.session.early_data) >= EARLY_DATA_MAX:
                self.pauseProducing()
            else:
                self.resumeProducing()
        self.connect_next()
        return True

    def stream_ended(self) -> None:
        super().stream_ended()
        session = self.session
        if session.waited and session.backend is None and not session.early_data:
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
        if self.peer is None:
            self._lost_early(clean=reason.check(ConnectionDone) is not None)
        else:
            self.one_lost(self, self.peer, reason)

    def one_lost(self, one: Side, other: Side, reason: Failure) -> None:
        """One of the connections is over; the session goes on until the other has what was read for it, if it can."""
        clean = one.is_done or reason.check(ConnectionDone) is not None
        if one is self:
            ending, flush_s = Ending.CLIENT_RESET, FLUSH_BACKEND_S
        else:  # one that had ended its stream before has left the whole answer
            ending, flush_s = Ending.BACKEND_RESET, self.carrier.reader_s if one.read_ended else FLUSH_CLIENT_S
        if not clean or other.lost:
            self.session.ended(Ending.CLOSED if clean else ending)
        if other.lost:
            self.over()
        elif clean:
            other.end()
        else:
            other.reset_flushed(flush_s)

    def over(self) -> None:
        """No connection is left. References in circles are broken: the garbage collector comes seldom."""
        self.carrier.clients.discard(self)
        if self.peer is not None:
            self.peer.peer = None
            self.peer = None
        self.carrier.capacity.leave()

    def client_address(self) -> str:
        peer: Any = self.transport.getPeer()
        return written((unmapped(peer.host), peer.port)) if hasattr(peer, "host") else str(peer)

    def carried(self) -> tuple[int, int]:
        return self.session.up, self.session.down

    def unsent(self) -> int:
        return sum(unacknowledged(side.transport) for side in self._sides())

    def waits_for_reader(self) -> bool:
        return any(waits_for_reader(handle) for handle in self._sockets())

    def has_vanished(self, after_s: float) -> bool:
        return any(has_vanished(handle, after_s) for handle in self._sockets())

    def probe_backend(self) -> None:
        handle = self._backend_socket()
        if handle is not None:
            probe_soon(handle)

    def backend_heard(self, within_s: float) -> bool:
        handle = self._backend_socket()
        return handle is not None and has_acknowledged(handle, within_s)

    def cut(self, ending: Ending) -> None:
        self.session.ended(ending)
        for side in self._sides():
            side.transport.abortConnection()
        self.stop_connecting()

    def _sides(self) -> list[Side]:
        return [side for side in (self, self.peer) if side is not None and not side.lost]

    def _sockets(self) -> Iterator[socket.socket]:
        for side in self._sides():
            handle = socket_of(side.transport)
            if handle is not None:
                yield handle

    def _backend_socket(self) -> socket.socket | None:
        return None if self.peer is None or self.peer.lost else socket_of(self.peer.transport)

    def _lost_early(self, *, clean: bool) -> None:
        if self._connector is None:
            self._gone()
        elif not clean and self.session.ending is None:  # so that the reset arrives there, after what came before it
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
        handle = socket_of(self.transport)
        if handle is not None:
            if self._is_self_connected(handle):
                self.transport.abortConnection()
                self._client.connect_failed(blame=True)
                return
            with suppress(OSError):  # the peer may be gone already
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._client.carrier.grow_up(self)
        self._client.connect_succeeded(self)

    def _is_self_connected(self, handle: socket.socket) -> bool:
        backend = self.session.backend
        if backend is None or not self._client.carrier.service.may_self_connect((backend.address, backend.port)):
            return False
        return is_self_connected(handle, backend.address, backend.port)

    def grow_up(self) -> None:
        """What most connections do not live to see."""
        handle = None if self.lost else socket_of(self.transport)
        if handle is not None:
            keep_alive(handle)

    def dataReceived(self, data: bytes) -> None:
        self.session.down += len(data)
        self._client.transport.write(data)

    def stream_ended(self) -> None:
        if self.peer is None or self.session.down or not self._client.another(reset=False):
            super().stream_ended()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self.peer is None:
            return
        clean = self.is_done or reason.check(ConnectionDone) is not None
        if self.session.down or not self._client.another(reset=not clean):
            self._client.one_lost(self, self.peer, reason)


class _BackendFactory(ClientFactory):
    """One try to connect."""

    noisy = False

    def __init__(self, client: ClientSide) -> None:
        self._client = client

    def startedConnecting(self, connector: IConnector) -> None:
        """Twisted has made the socket, and connects it in its next turn."""
        handle = getattr(getattr(connector, "transport", None), "socket", None)
        if isinstance(handle, socket.socket):
            keep_urgent_in_line(handle)

    def buildProtocol(self, addr: IAddress | None) -> BackendSide:
        return BackendSide(self._client)

    def clientConnectionLost(self, connector: Any, reason: Failure) -> None:
        connector.transport = None  # which has the connector

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        local = reason.check(ConnectBindError) or getattr(reason.value, "osError", None) in LOCAL_ERRORS
        self._client.connect_failed(blame=not local)


class _ClientFactory(Factory):
    noisy = False

    def __init__(self, carrier: PortableCarrier, service: Service) -> None:
        self.carrier = carrier
        self._service = service

    def buildProtocol(self, addr: IAddress | None) -> ClientSide:
        side = ClientSide(self.carrier)
        side.session = Session(self._service, side)
        self.carrier.capacity.enter()
        return side


class PortableCarrier:
    """A `Carrier` of Twisted's own transports."""

    def __init__(self, reactor: IReactorTCP, service: Service, deadlines: Wheel, capacity: Capacity) -> None:
        self.service = service
        self.deadlines = deadlines
        self.capacity = capacity
        self.clients: set[ClientSide] = set()
        self.factory = _ClientFactory(self, service)
        self._reactor = reactor
        self.ports = Ports(capacity)
        self._young: list[BackendSide] = []

    def serve(self, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        return endpoint.listen(self.factory).addCallback(self._opened)

    def _opened(self, port: IListeningPort) -> IListeningPort:
        self.ports.add(port)
        return port

    @property
    def reader_s(self) -> float:
        return self.service.reader_timeout_s

    def connect(self, client: ClientSide, backend: Backend) -> IConnector:
        """Start to connect to `backend`; the deadline is the session's, so Twisted's own is off."""
        factory = _BackendFactory(client)
        return self._reactor.connectTCP(backend.address, backend.port, factory, timeout=None)  # type: ignore[arg-type]

    def grow_up(self, side: BackendSide) -> None:
        """Have a back-end's side do so, together with others, if it is still there in a moment."""
        if not self._young:
            self.deadlines.arm(self, _YOUNG_S, self._grow_up)
        self._young.append(side)

    def _grow_up(self) -> None:
        young, self._young = self._young, []
        for side in young:
            side.grow_up()

    def heed(self, descriptor: int) -> None:
        """Each of its sockets is one of the reactor's."""

    def ignore(self, descriptor: int) -> None:
        """It has never heeded any."""

    def slices(self) -> Iterator[list[Session]]:
        clients = list(self.clients)
        for start in range(0, len(clients), SLICE):
            part = clients[start : start + SLICE]
            yield [client.session for client in part if client.session.is_connected]

    def abort(self) -> None:
        for client in list(self.clients):
            client.cut(Ending.STOPPED)
