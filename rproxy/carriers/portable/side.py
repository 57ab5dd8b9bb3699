"""Flow control and endings, for both connections of a session on Twisted's transports."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carriers.portable.flush import Flush
from rproxy.net.tcp_options import reset_on_close
from rproxy.net.tcp_state import is_broken, socket_of
from rproxy.sessions.session import Session
from rproxy.timing.wheel import Wheel


class StreamTransport(ITCPTransport, IConsumer, IPushProducer):
    """The interfaces of Twisted's stream transports together. TLS lacks half-close, Unix sockets lack TCP's options."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class Side(Protocol):
    """One of a session's two connections; `peer` is the other one, while both are carried.

    As a push producer it is registered with its peer's transport, which pauses it when its buffer is full.
    """

    transport: StreamTransport
    deadlines: Wheel
    session: Session
    peer: Side | None = None
    lost = False
    """`connectionLost` has been called."""
    read_ended = False
    """The end of its stream has been read."""
    write_ended = False
    """The end of stream has been sent to it, after all data."""

    def join(self, peer: Side) -> None:
        """Carry what arrives here to `peer` from now on, as fast as `peer` takes it."""
        self.peer = peer
        peer.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The peer's transport is lost; its `connectionLost` handles that."""

    def reset(self) -> None:
        """Reset the connection. Twisted does so in the next turn of the reactor; if the process ends before, the kernel
        does, which would otherwise end the stream as if everything had been sent.
        """
        handle = socket_of(self.transport)
        if handle is not None:
            reset_on_close(handle)
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """An end of stream, or a reset that the epoll reactor reports as one (see `is_broken`)."""
        if is_broken(self.transport):
            self.transport.abortConnection()
        else:
            self.stream_ended()

    def stream_ended(self) -> None:
        """This side has ended its stream: pass that on."""
        self.read_ended = True
        if self.peer is not None:
            self.session.half_close()
            self.peer.end_writing()
        self._close_if_done()

    def end_writing(self) -> None:
        """The peer has ended its stream: pass that on, behind its data."""
        if self.lost:
            return
        self.transport.unregisterProducer()
        if ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()  # TLS here has no half-close
        else:
            self.transport.loseWriteConnection()

    def end(self) -> None:
        """The peer's connection was closed in good order: close this one, after the peer's data."""
        if self.lost:
            return
        self.session.half_close()
        self.transport.unregisterProducer()
        self.transport.loseConnection()  # which waits for this side to read

    def writeConnectionLost(self) -> None:
        """All data and the end of stream have been written."""
        self.write_ended = True
        self._close_if_done()

    @property
    def is_done(self) -> bool:
        """Whether both streams have ended, and everything is written."""
        return self.read_ended and self.write_ended

    def _close_if_done(self) -> None:
        if self.is_done:
            self.transport.loseConnection()

    def reset_flushed(self, within_s: float) -> None:
        """Reset this connection once the peer's data has been acknowledged, after `within_s` seconds in any case."""
        if self.lost:
            return
        self.transport.unregisterProducer()
        Flush(self, within_s).start()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self.deadlines.disarm(self)
