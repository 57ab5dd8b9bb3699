"""The PROXY header for a back-end, and what it tells of a client's TLS that ends here."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import ISSLTransport

from rproxy.net.tcp_state import socket_of
from rproxy.pool.backend import Backend
from rproxy.sessions.origin import header_of
from rproxy.sessions.session import Session
from rproxy.wire.proxy_header import (
    ALPN,
    AUTHORITY,
    CLIENT_CERT_CONN,
    CLIENT_CERT_SESS,
    CLIENT_SSL,
    Tlv,
    ssl_tlv,
)


def header_for(backend: Backend, session: Session, transport: Any) -> bytes:
    """The header that `backend` gets for the client of `transport`; empty for none. Raises nothing as long as the
    client's connection is there.
    """
    version = session.service.outbound_to(backend).send_proxy
    return header_of(session, version, tls_of(transport)) if version else b""


def read_arrived(transport: Any) -> None:
    """Have a plain transport read what has arrived, and the reactor has not reported yet: it leaves with the header."""
    handle = None if ISSLTransport.providedBy(transport) else socket_of(transport)
    if handle is None:
        return
    with suppress(OSError):  # nothing has, or the connection is over
        if handle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            transport.doRead()


def tls_of(transport: Any) -> tuple[Tlv, ...]:
    """The TLVs for a transport with TLS; none for others.

    They are kept few, as some servers take short headers only: version, the client certificate's name, and the names of
    protocol and server that were negotiated.
    """
    if not ISSLTransport.providedBy(transport):
        return ()
    secured: Any = transport
    connection = secured.getHandle()
    certificate = connection.get_peer_certificate()
    client, name = CLIENT_SSL, ""
    if certificate is not None:  # clients' certificates are verified in the handshake
        client |= CLIENT_CERT_CONN | CLIENT_CERT_SESS
        name = certificate.get_subject().CN or ""
    tlvs = [ssl_tlv(client, connection.get_protocol_version_name(), name)]
    for kind, value in ((ALPN, connection.get_alpn_proto_negotiated()), (AUTHORITY, connection.get_servername())):
        if value:
            tlvs.append((kind, value))
    return tuple(tlvs)
