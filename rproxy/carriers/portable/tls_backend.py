"""TLS to a back-end: its connection counts as established once the handshake is complete."""

from __future__ import annotations

from collections.abc import Callable

from OpenSSL.SSL import Error
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IAddress, IConnector, IHandshakeListener, IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.carriers.portable.backend_side import BackendFactory, BackendSide
from rproxy.carriers.portable.client_side import ClientSide
from rproxy.net.tls_client import ClientTls
from rproxy.net.tls_contexts import reason_of
from rproxy.pool.backend import Backend


@implementer(IHandshakeListener)
class TlsBackendSide(BackendSide):
    """A `BackendSide` above TLS."""

    def __init__(self, attempt: TlsAttempt) -> None:
        super().__init__(attempt.client, attempt.established)
        self._attempt = attempt
        self._is_complete = False
        """Whether the handshake is."""

    def connected(self) -> None:
        """TCP is connected. TLS begins its handshake when this has returned."""
        self._attempt.side = self

    def handshakeCompleted(self) -> None:
        self._is_complete = True
        self._client.connect_succeeded(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._is_complete:
            if reason.check(Error) and not self.session.down:  # a client certificate is refused only afterwards
                self._attempt.report(reason)
            super().connectionLost(reason)
        elif self._attempt.side is self:
            self.lost = True
            if not self._client.lost and self.session.ending is None:
                self._attempt.report(reason)
            self._client.connect_failed(backend_fault=True)


class TlsAttempt(BackendFactory):
    """One attempt to connect with TLS, and its connector: it can be stopped as long as TLS is shaking hands."""

    def __init__(
        self,
        client: ClientSide,
        established: Callable[[BackendSide], None],
        backend: Backend,
    ) -> None:
        super().__init__(client, established)
        self.client = client
        self.established = established
        self.side: TlsBackendSide | None = None
        """Set once TCP is connected."""
        self.connector: IConnector | None = None
        """Of the connection below TLS; set by the caller of the constructor."""
        self._backend = backend
        self._distrust = ""

    def below(self, tls: ClientTls, clock: IReactorTime) -> IProtocolFactory:
        """The factory for the connection below TLS."""
        connecting = tls.to(self._backend.address, self._distrusted)
        factory: IProtocolFactory = TLSMemoryBIOFactory(connecting, True, self, clock)
        return factory

    def buildProtocol(self, addr: IAddress | None) -> TlsBackendSide:
        return TlsBackendSide(self)

    def _distrusted(self, reason: str) -> None:
        self._distrust = reason

    def report(self, reason: Failure) -> None:
        """The handshake failed, or seemed complete to us alone."""
        text = self._distrust
        if not text and reason.check(Error):
            text = reason_of(reason.value)
        elif not text:
            text = "it took too long" if reason.check(ConnectionAborted) else "the connection was closed"
        self.client.session.service.tls_failures.with_backend(self._backend, text)

    def stopConnecting(self) -> None:
        """As `IConnector`. `connect_failed` follows, at once or in another turn of the reactor."""
        if self.side is not None:
            self.side.transport.abortConnection()
        elif self.connector is not None:
            self.connector.stopConnecting()
