"""TLS handshakes between two ends in memory."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

from OpenSSL import SSL

from rproxy.net.tls_server import ServerTls


class Client:
    """A client on Python's own TLS, and the server's end on pyOpenSSL's, as Twisted makes it."""

    def __init__(
        self, server: ServerTls, context: ssl.SSLContext, name: str | None = None, session: Any = None
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name, session=session)
        self.server = server.serverConnectionForTLS(None)
        self.server.set_accept_state()

    def shake_hands(self) -> Client:
        """Raises what either end raises, the server's first."""
        for _ in range(5):
            client_error = self._step(self.tls.do_handshake)
            self._to_server()
            self._step(self.server.do_handshake)
            self.to_client()
            if client_error is not None:
                raise client_error
        self.read()
        return self

    @staticmethod
    def _step(call: Any) -> Exception | None:
        try:
            call()
        except (ssl.SSLWantReadError, SSL.WantReadError):
            return None
        except ssl.SSLError as error:
            return error
        return None

    def _to_server(self) -> None:
        data = self._outgoing.read()
        if data:
            self.server.bio_write(data)

    def to_client(self) -> None:
        with suppress(SSL.WantReadError):
            self._incoming.write(self.server.bio_read(1 << 16))

    def read(self) -> bytes:
        """What the server has sent. The tickets of TLS 1.3 come with it."""
        try:
            return self.tls.read(1 << 16)
        except ssl.SSLWantReadError:
            return b""

    def send(self, data: bytes) -> bytes:
        """Has the server read `data`; returns what it read."""
        self.tls.write(data)
        self._to_server()
        return self.server.recv(1 << 16)

    def common_name(self) -> str:
        """Of the server's certificate."""
        certificate: Any = self.tls.getpeercert()
        return str(dict(pair for (pair,) in certificate["subject"])["commonName"])


def trusting(path: object, **settings: Any) -> ssl.SSLContext:
    """A client's context that trusts the authority in that file; settings are its attributes."""
    context = ssl.create_default_context(cafile=str(path))
    for name, value in settings.items():
        setattr(context, name, value)
    return context
