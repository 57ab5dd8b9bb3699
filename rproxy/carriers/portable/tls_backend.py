"""TLS to a back-end: its connection counts as established once the handshake is complete."""

from __future__ import annotations

from collections.abc import Callable

from OpenSSL.SSL import Error
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

    def tcp_connected(self) -> None:
        """TCP is connected. TLS begins its handshake when this has returned."""
        self._attempt.side, self._attempt.connector = self, None

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
        self._attempt.side = None


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
        """Set while TCP is connected."""
        self.connector: IConnector | None = None
        """Set by the caller of the constructor, until then."""
        self._backend = backend
        self._reason = ""
        """Why it fails, where that is known here."""

    def below(self, tls: ClientTls, clock: IReactorTime) -> IProtocolFactory:
        """The factory for the connection below TLS."""
        connecting = tls.to(self._backend.address, self._distrusted)
        factory: IProtocolFactory = TLSMemoryBIOFactory(connecting, True, self, clock)
        return factory

    def buildProtocol(self, addr: IAddress | None) -> TlsBackendSide:
        return TlsBackendSide(self)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.connector = None
        super().clientConnectionFailed(connector, reason)

    def _distrusted(self, reason: str) -> None:
        self._reason = reason

    def report(self, error: Failure) -> None:
        """The handshake failed, or seemed complete to us alone."""
        known = reason_of(error.value) if error.check(Error) else "the connection was closed"
        self.client.session.service.tls_failures.with_backend(self._backend, self._reason or known)

    def stopConnecting(self) -> None:
        """As `IConnector`. `connect_failed` follows, at once or in another turn of the reactor."""
        if self.side is not None:
            self._reason = "it took too long"
            self.side.transport.abortConnection()
        elif self.connector is not None:
            self.connector.stopConnecting()
