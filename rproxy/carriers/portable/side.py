"""One of a session's two connections on Twisted's transports: how bytes flow to its peer, and how it ends."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carriers.portable.flush import Flush
from rproxy.net.tcp_state import is_broken
from rproxy.sessions.session import Session
from rproxy.timing.wheel import Wheel


class StreamTransport(ITCPTransport, IConsumer, IPushProducer):
    """What Twisted's stream transports provide together. TLS lacks the half-close, UNIX sockets TCP's own options."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class Side(Protocol):
    """One of a session's two connections."""

    transport: StreamTransport
    deadlines: Wheel
    session: Session
    peer: Side | None = None
    lost = False
    read_ended = False
    write_ended = False

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
            self.stream_ended()

    def stream_ended(self) -> None:
        """This side sends no more: pass that on."""
        self.read_ended = True
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
        self.session.half_close()
        self.transport.unregisterProducer()
        self.transport.loseConnection()  # which waits for this side to read

    def writeConnectionLost(self) -> None:
        """What was to be written is, and the end of stream with it."""
        self.write_ended = True
        self._close_if_done()

    @property
    def is_done(self) -> bool:
        """Whether both streams have ended, and all is written."""
        return self.read_ended and self.write_ended

    def _close_if_done(self) -> None:
        if self.is_done:
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
