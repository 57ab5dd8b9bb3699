"""TLS towards back-ends: which of them are trusted, by which name, and as whom we come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from rproxy.net.addresses import is_ip
from rproxy.net.tls_contexts import encoded, new_context, trust, use_identity
from rproxy.net.tls_files import Identity, read_identity
from rproxy.net.tls_settings import SendTlsConfig, TlsFileError

_REASONS: Final = {
    code: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, code in vars(SSL.X509VerificationCodes).items()
    if name.startswith("ERR_")
}
"""What is wrong with a certificate, by OpenSSL's numbers (X509_V_ERR_…)."""


class ClientTls:
    """TLS as a `SendTlsConfig` has it."""

    def __init__(self, config: SendTlsConfig) -> None:
        """Reads the files. Raises `TlsFileError`."""
        self.apply(config)

    def apply(self, config: SendTlsConfig) -> None:
        """Read the files of `config`, which may be the same as before, and use them for connections made from now on.

        Raises `TlsFileError`, and then changes nothing.
        """
        self._context, self.identity = _client_context(config)
        self.config = config

    @property
    def identities(self) -> Sequence[Identity]:
        """Our own certificate, if we have one."""
        return () if self.identity is None else (self.identity,)

    def to(self, host: str, distrust: Callable[[str], None]) -> Connecting:
        """For one connection to the back-end of that name or address. `distrust` is told if it cannot be trusted."""
        return Connecting(self._context, self.config.server_name or host, self.config.verify, distrust)


@implementer(IOpenSSLClientConnectionCreator)
class Connecting:
    """Makes the TLS state of one connection to a back-end."""

    def __init__(self, context: SSL.Context, host: str, verify: bool, distrust: Callable[[str], None]) -> None:
        self._context = context
        self._host = host.partition("%")[0]
        self._verify = verify
        self._distrust = distrust

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N803 - Twisted's name
        """Called by Twisted's TLS layer once it is connected."""
        connection = SSL.Connection(self._context)
        if not is_ip(self._host):  # RFC 6066, 3: addresses are not sent
            connection.set_tlsext_host_name(self._host.encode("idna"))
        if self._verify:
            connection.set_verify(SSL.VERIFY_PEER, self._verified)
        return connection

    def _verified(self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
        """Called by OpenSSL for each certificate of the chain, the back-end's own last, and for each error."""
        if not ok:
            self._distrust(f"its certificate does not verify: {_REASONS.get(error, f'error {error}')}")
            return False
        if depth:
            return True
        try:
            self._check_name(certificate)
        except (VerificationError, CertificateError, ValueError):
            self._distrust(f"its certificate is not for {self._host}")
            return False
        return True

    def _check_name(self, certificate: X509) -> None:
        """Raises `VerificationError`; for certificates that are not well formed `CertificateError`, `ValueError`."""
        if is_ip(self._host):
            verify_certificate_ip_address(certificate.to_cryptography(), self._host)
        else:
            verify_certificate_hostname(certificate.to_cryptography(), self._host.encode("idna").decode())


def _client_context(config: SendTlsConfig) -> tuple[SSL.Context, Identity | None]:
    """Raises `TlsFileError`."""
    try:
        (config.server_name or "").encode("idna")
    except UnicodeError:
        raise TlsFileError("server-name", str(config.server_name), "not a host name") from None
    context = new_context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE, lambda *_: True)  # fails now where those of connections would, by MemoryError
    identity = None
    if config.certificate is not None:
        identity = read_identity(config.certificate, config.key or config.certificate)
        use_identity(context, identity)
    if config.ca is not None:
        trust(context, "ca", config.ca)
    elif config.verify:
        context.set_default_verify_paths()
    if config.alpn:
        context.set_alpn_protos(encoded(config.alpn))
    return context, identity
