"""The client's connection on Twisted's transports: from accept to the end of the session."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, Final, Protocol

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConnector, IHandshakeListener, ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carriers.portable.handshakes import HANDSHAKE_S, Handshakes
from rproxy.carriers.portable.outgoing_header import header_for
from rproxy.carriers.portable.side import Side
from rproxy.carriers.portable.wrappers import pass_on
from rproxy.net.addresses import Address, unmapped, written, written_unix
from rproxy.net.tcp_options import has_urgent_in_line, prepare_listener, probe_soon
from rproxy.net.tcp_state import has_acknowledged, has_vanished, socket_of, unacknowledged, waits_for_reader, was_reset
from rproxy.pool.backend import Backend
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.redispatch import EARLY_DATA_MAX, EARLY_END_S
from rproxy.sessions.session import FLUSH_BACKEND_S, FLUSH_CLIENT_S, Session
from rproxy.timing.wheel import Wheel

_PAUSED_POLL_S: Final = 0.2
"""Between checks whether a client that is not read has reset its connection."""


class ClientCarrier(Protocol):
    """What a client's connection uses of its carrier."""

    deadlines: Wheel
    capacity: Capacity
    clients: set[ClientSide]
    """Those with a connection left, to the client or to its back-end."""
    handshakes: Handshakes
    newest: ClientSide | None
    """The one that was made last: the protocols around it may hide it."""

    def connect(self, client: ClientSide, backend: Backend) -> IConnector:
        """Start to connect to `backend`. Calls `connect_succeeded` or `connect_failed` of `client`, not before the
        reactor's next turn.
        """
        ...


@implementer(IHandshakeListener)
class ClientSide(Side):
    """The accepted connection, which is its session's `Link`. The caller of the constructor sets `session`.

    Until there is a back-end, at most `EARLY_DATA_MAX` bytes are read from the client.
    """

    session: Session

    def __init__(self, carrier: ClientCarrier) -> None:
        self._carrier = carrier
        self.deadlines = carrier.deadlines
        self._keeps_early_data = False
        """Whether data sent to the back-end is kept for another one."""
        self._connector: IConnector | None = None
        self._address: str | None = None
        self.proxy_header = b""
        """For the present back-end, made while the client's addresses are known; empty for none."""

    def connectionMade(self) -> None:
        handle = socket_of(self.transport)
        if handle is not None and not has_urgent_in_line(handle):  # not inherited from the listening socket
            prepare_listener(handle)
        pass_on(self)
        self._carrier.clients.add(self)
        if self.session.service.gate is not None and not self.session.admit():
            self.transport.abortConnection()
            return
        if ISSLTransport.providedBy(self.transport):
            self._carrier.handshakes.begin(self)
        else:
            self._connect()

    def handshakeCompleted(self) -> None:
        """A TLS client gets a back-end only now: a port scan or a failed handshake costs none."""
        self._carrier.handshakes.completed(self)
        self.session.handshake_completed()
        self._connect()

    def _connect(self) -> None:
        """Connect to the session's next back-end. Without one, the client waits if it may, or is refused."""
        backend = self.session.choose_backend()
        if backend is None:
            if not self.session.wait_for_backend(self._connect):
                self._refuse()
            return
        self.deadlines.arm(self, self.session.connect_timeout_s(), self._stop_connecting)
        self.proxy_header = header_for(backend, self.session, self.transport)
        self._connector = self._carrier.connect(self, backend)

    def _refuse(self) -> None:
        """Close the connection without a back-end: by a reset if data is lost, which a clean end would hide."""
        self.session.give_up()
        if self.session.up:
            self.transport.abortConnection()
        else:
            self.deadlines.arm(self, HANDSHAKE_S, self.transport.abortConnection)
            self.transport.loseConnection()  # TLS waits for the client's close_notify

    def _stop_connecting(self) -> None:
        if self._connector is not None:
            self._connector.stopConnecting()

    def connect_failed(self, *, backend_fault: bool) -> None:
        """The present attempt to connect failed, or was stopped."""
        self.deadlines.disarm(self)
        self._connector = None
        if self.lost:
            self._end_unconnected()
        elif self.session.ending is None:
            self.session.connect_failed(backend_fault=backend_fault)
            self._connect()

    def _end_unconnected(self) -> None:
        """The client's connection was lost before there was a back-end."""
        self.session.ended(Ending.CLIENT_GONE)
        self._release()

    def connect_succeeded(self, backend_side: Side) -> None:
        """The back-end is connected: send it the early data, then carry both ways."""
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
        self._keeps_early_data = True
        self.deadlines.arm(self, EARLY_END_S, self._settle)
        if session.early_data:
            if len(session.early_data) >= EARLY_DATA_MAX and not self.read_ended:
                self.resumeProducing()
            backend_side.transport.write(session.early_data)
        if self.read_ended:
            session.half_close()
            backend_side.end_writing()

    def _deliver(self, backend_side: Side) -> None:
        """The client has reset meanwhile: deliver what came before the reset, then the reset, to the back-end."""
        self.deadlines.disarm(self)
        session = self.session
        session.connected()
        self.peer, backend_side.peer = backend_side, self
        backend_side.transport.write(session.early_data)
        session.ended(Ending.CLIENT_RESET)
        backend_side.reset_flushed(FLUSH_BACKEND_S)

    def _settle(self) -> None:
        """`EARLY_END_S` have passed since the connect."""
        self._keeps_early_data = False
        self.session.settled()

    def dataReceived(self, data: bytes) -> None:
        session = self.session
        peer = self.peer
        if peer is None:
            session.early_data += data
            if len(session.early_data) >= EARLY_DATA_MAX:
                self.pauseProducing()
        elif self._keeps_early_data:
            self._keep(data)
        session.up += len(data)
        if peer is not None:
            peer.transport.write(data)

    def _keep(self, data: bytes) -> None:
        """Keep data for another back-end, in case this one ends the connection before it has answered."""
        session = self.session
        if session.down:
            session.backend_spoke_first |= not session.up
        elif len(session.early_data) + len(data) <= EARLY_DATA_MAX:
            session.early_data += data
            return
        self._keeps_early_data = False
        session.early_data = b""

    def redispatch(self, *, reset: bool) -> bool:
        """The back-end ended the connection before it sent a byte; returns whether another one is being tried."""
        peer = self.peer
        if self.lost or peer is None or not self.session.try_redispatch(self.session.up, reset=reset):
            return False
        self.peer = peer.peer = None
        self._keeps_early_data = False
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
        self._connect()
        return True

    def stream_ended(self) -> None:
        super().stream_ended()
        session = self.session
        if session.waited and session.backend is None and not session.early_data:
            self.transport.loseConnection()  # a client that leaves the queue, having sent nothing

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self.deadlines.arm(self.session, _PAUSED_POLL_S, self._check_paused)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self.deadlines.disarm(self.session)

    def _check_paused(self) -> None:
        """A client that resets while it is not read must not keep its back-end's connection open."""
        if was_reset(self.transport):
            self.transport.abortConnection()
        else:
            self.deadlines.arm(self.session, _PAUSED_POLL_S, self._check_paused)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.deadlines.disarm(self.session)
        if self.peer is None:
            self._lost_unconnected(reason)
        else:
            self.side_lost(self, self.peer, reason)

    def _lost_unconnected(self, reason: Failure) -> None:
        if self._connector is None:
            if self._carrier.handshakes.lost(self, reason):
                self.session.ended(Ending.HANDSHAKE)
            self._end_unconnected()
        elif (
            not reason.check(ConnectionDone) and self.session.ending is None
        ):  # deliver what came before the reset, then the reset
            self.deadlines.arm(self, FLUSH_BACKEND_S, self._stop_connecting)
        else:
            self._stop_connecting()

    def side_lost(self, side: Side, other: Side, reason: Failure) -> None:
        """One of the two connections is over. The session lasts until the other has received what was read for it."""
        clean = side.is_done or reason.check(ConnectionDone) is not None
        if side is self:
            ending, flush_s = Ending.CLIENT_RESET, FLUSH_BACKEND_S
        else:  # a back-end that had ended its stream before has sent the whole answer
            ending = Ending.BACKEND_RESET
            flush_s = self.session.service.terms.reader_timeout_s if side.read_ended else FLUSH_CLIENT_S
        if not clean or other.lost:
            self.session.ended(Ending.CLOSED if clean else ending)
        if other.lost:
            self._release()
        elif clean:
            other.end()
        else:
            other.reset_flushed(flush_s)

    def _release(self) -> None:
        """No connection is left. Breaks the reference cycles, because the garbage collector runs seldom."""
        self._carrier.clients.discard(self)
        if self.peer is not None:
            self.peer.peer = None
            self.peer = None
        self._carrier.capacity.leave()
        own = self.session.service.capacity
        own.sessions -= 1
        if own.waiting:
            own.resume()

    def client_address(self) -> str:
        if self._address is not None:
            return self._address
        client = self.client()
        address = _other(self.transport.getPeer()) if client is None else written(client)
        if self.session.ending is not None:  # until then, the header of a PROXY listener may change it
            self._address = address
        return address

    def client(self) -> Address | None:
        header = self.session.header
        return self.peer_address() if header is None or header.source is None else header.source

    def peer_address(self) -> Address | None:
        return _of_ip(self.transport.getPeer())

    def destination(self) -> Address | None:
        return None if self.lost else _of_ip(self.transport.getHost())

    def carried(self) -> tuple[int, int]:
        return self.session.up, self.session.down

    def unsent(self) -> int:
        return sum(unacknowledged(side.transport) for side in self._open_sides())

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
        for side in self._open_sides():
            side.reset()
        self._stop_connecting()

    def _open_sides(self) -> list[Side]:
        return [side for side in (self, self.peer) if side is not None and not side.lost]

    def _sockets(self) -> Iterator[socket.socket]:
        for side in self._open_sides():
            handle = socket_of(side.transport)
            if handle is not None:
                yield handle

    def _backend_socket(self) -> socket.socket | None:
        return None if self.peer is None or self.peer.lost else socket_of(self.peer.transport)


def _of_ip(address: Any) -> Address | None:
    return (unmapped(address.host), address.port) if hasattr(address, "host") else None


def _other(peer: Any) -> str:
    """The text of an address that has no IP address."""
    return written_unix(peer.name) if isinstance(peer, UNIXAddress) else str(peer)
