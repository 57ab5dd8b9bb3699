"""OpenSSL's contexts: what both kinds of TLS here have in common, and what it says about failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from OpenSSL import SSL
from OpenSSL.crypto import X509StoreFlags

from rproxy.net.tls_files import Identity, read_authorities
from rproxy.net.tls_settings import TlsFileError

VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_NO_RENEGOTIATION: Final = 1 << 30
"""SSL_OP_NO_RENEGOTIATION, which not every pyOpenSSL names. A peer could make us compute without end."""


def new_context(method: int, min_version: str = "1.2") -> SSL.Context:
    """A context without certificates, which refuses renegotiation and compression, and keeps no sessions in memory."""
    context = SSL.Context(method)
    context.set_options(SSL.OP_NO_COMPRESSION | _NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection keeps 34 kB less
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_min_proto_version(VERSIONS[min_version])
    return context


def use_identity(context: SSL.Context, identity: Identity, number: int = 0) -> None:
    """Give a context a certificate; of each kind of key it may have one. Raises `TlsFileError`, for number `number`."""
    try:
        context.use_certificate_chain_file(identity.path)
        context.use_privatekey(identity.key)
        context.check_privatekey()
    except (SSL.Error, TypeError) as error:
        reason = f"cannot be used for TLS ({reason_of(error)})"
        raise TlsFileError("certificate", identity.path, reason, number) from None


def trust(context: SSL.Context, part: str, path: str) -> None:
    """Trust the authorities of a file, roots or not. Raises `TlsFileError`."""
    read_authorities(part, path)
    try:
        context.load_verify_locations(path)
    except SSL.Error as error:
        raise TlsFileError(part, path, f"cannot be used ({reason_of(error)})") from None
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)


def encoded(protocols: Sequence[str]) -> list[bytes]:
    """Names of protocols for ALPN."""
    return [each.encode() for each in protocols]


def reason_of(error: BaseException | None) -> str:
    """What OpenSSL says in an `SSL.Error`, without the names of its functions; of others, their text."""
    assert error is not None
    queue: Any = error.args[0] if error.args else ""
    if isinstance(error, SSL.SysCallError):
        return "the connection was closed"
    if isinstance(queue, list):
        return str(queue[-1][-1]) if queue else "the connection was closed"
    return str(error) or type(error).__name__
