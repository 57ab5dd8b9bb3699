"""What a back-end is told of a session's client, in a PROXY header."""

from __future__ import annotations

from rproxy.sessions.session import Session
from rproxy.wire.proxy_header import ALPN, AUTHORITY, SSL, Tlv, encode

_OF_TLS = frozenset({ALPN, AUTHORITY, SSL})


def header_of(session: Session, version: int, own_tls: tuple[Tlv, ...] = ()) -> bytes:
    """The header of that version for the back-end of a session.

    The addresses are those of the header that the client's connection began with, or else the connection's own. TLVs
    that came in are passed on, those about TLS only unless there are `own_tls`, for TLS that ends here.
    """
    header, link = session.header, session.link
    if header is None:
        return encode(version, link.peer_address(), link.destination(), own_tls)
    tlvs = header.tlvs
    if own_tls:
        tlvs = own_tls + tuple(tlv for tlv in tlvs if tlv[0] not in _OF_TLS)
    if header.source is None:
        return encode(version, link.peer_address(), link.destination(), tlvs)
    return encode(version, header.source, header.destination, tlvs)
