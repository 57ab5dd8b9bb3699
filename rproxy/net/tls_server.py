"""TLS towards clients: contexts by the name that a client asks for (SNI), which are replaced while clients come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from rproxy.net.tls_contexts import encoded, new_context, trust, use_identity
from rproxy.net.tls_files import Identity, read_authorities, read_identity
from rproxy.net.tls_settings import TlsConfig

_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: those with forward secrecy and authenticated encryption. The suites of TLS 1.3 all are."""
_SESSION_ID: Final = b"rproxy"
"""OpenSSL wants one where clients have certificates. That tickets are good on one listener only is up to their keys."""


class _Certificates:
    """The contexts of a set of certificates, by host name."""

    def __init__(self, config: TlsConfig, front: _Front) -> None:
        """Raises `TlsFileError`."""
        self.identities = [read_identity(*files, number) for number, files in enumerate(config.certificates)]
        self._exact: dict[str, SSL.Context] = {}
        self._wildcard: dict[str, SSL.Context] = {}
        """By what follows the asterisk and its dot, which stand for one label (RFC 6125, 6.4.3)."""
        contexts: dict[frozenset[str], SSL.Context] = {}
        kinds: set[tuple[frozenset[str], type]] = set()
        for number, identity in enumerate(self.identities):
            names = identity.names
            if (names, identity.kind) in kinds:
                continue  # the first one is used
            kinds.add((names, identity.kind))
            if names not in contexts:
                contexts[names] = self._context(config, front)
                self._enter(names, contexts[names])
            use_identity(contexts[names], identity, number)
        for context in contexts.values():
            context.set_cipher_list(_CIPHERS)  # last: pyOpenSSL makes a connection for it, and a used context is final
        self._default = contexts[self.identities[0].names]

    @staticmethod
    def _context(config: TlsConfig, front: _Front) -> SSL.Context:
        context = _server_context(config)
        context.set_app_data(front)  # its connections need the front's callbacks, too
        return context

    def _enter(self, names: frozenset[str], context: SSL.Context) -> None:
        for name in names:
            if name.startswith("*."):
                self._wildcard.setdefault(name[2:], context)
            else:
                self._exact.setdefault(name, context)

    def context(self, name: bytes | None) -> SSL.Context:
        """The context for the name that a client asks for, if any."""
        if name is None:
            return self._default
        text = name.decode("ascii", "replace").lower().rstrip(".")
        return self._exact.get(text) or self._wildcard.get(text.partition(".")[2]) or self._default


class _Front:
    """The context that connections begin with. It has the keys of the session tickets, and no certificate.

    It lasts as long as what clients were told and asked for stays the same: with it end all sessions that could be
    resumed, for instance those of clients whose authority is no longer trusted.
    """

    def __init__(self, config: TlsConfig, terms: object) -> None:
        """Raises `TlsFileError`."""
        self.terms = terms
        self.certificates = _Certificates(config, self)
        self.context = _server_context(config)
        self.context.set_tlsext_servername_callback(self._select)  # OpenSSL calls it without SNI, too
        self.context.set_cipher_list(_CIPHERS)

    def _select(self, connection: SSL.Connection) -> None:
        connection.set_context(self.certificates.context(connection.get_servername()))


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """TLS as a `TlsConfig` has it. Several listeners may share it, and then their clients' session tickets."""

    def __init__(self, config: TlsConfig) -> None:
        """Reads the files. Raises `TlsFileError`."""
        self.config = config
        self._front = _Front(config, _terms(config))

    def apply(self, config: TlsConfig) -> None:
        """Read the files of `config`, which may be the same as before, and use them for clients that come from now on.

        Tickets of earlier sessions stay good if only certificates have changed. Raises `TlsFileError`, and then changes
        nothing.
        """
        terms = _terms(config)
        if terms == self._front.terms:
            self._front.certificates = _Certificates(config, self._front)
        else:
            self._front = _Front(config, terms)
        self.config = config

    @property
    def identities(self) -> Sequence[Identity]:
        """The certificates in use."""
        return self._front.certificates.identities

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N803 - Twisted's name
        """Called by Twisted's TLS layer for each client."""
        return SSL.Connection(self._front.context)


def _terms(config: TlsConfig) -> object:
    """What a resumed session must agree with: all but the certificates. Raises `TlsFileError`."""
    authorities = () if config.client_ca is None else tuple(read_authorities("client-ca", config.client_ca))
    return (config.alpn, config.min_version, authorities)


def _server_context(config: TlsConfig) -> SSL.Context:
    """A context that still lacks a certificate and ciphers. Raises `TlsFileError`."""
    context = new_context(SSL.TLS_SERVER_METHOD, config.min_version)
    context.set_session_id(_SESSION_ID)
    if config.alpn:
        context.set_alpn_select_callback(_Protocols(encoded(config.alpn)))
    if config.client_ca is not None:
        trust(context, "client-ca", config.client_ca)
        context.load_client_ca(config.client_ca.encode())
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


class _Protocols:
    """Selects the protocol (ALPN, RFC 7301): the first of ours that the client offers."""

    def __init__(self, ours: Sequence[bytes]) -> None:
        self._ours = ours

    def __call__(self, connection: SSL.Connection, offered: Sequence[bytes]) -> bytes:
        """Raises an error that Twisted takes for OpenSSL's: the client gets the alert no_application_protocol."""
        for each in self._ours:
            if each in offered:
                return each
        raise SSL.Error([("SSL routines", "", "no application protocol in common")])
