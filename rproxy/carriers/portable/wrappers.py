"""Protocols of others between a transport and ours, such as TLS or the PROXY header: what they do not pass on."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import alsoProvides

_TOLD = {
    IHalfCloseableProtocol: ("readConnectionLost", "writeConnectionLost"),
    IHandshakeListener: ("handshakeCompleted",),
}


def pass_on(protocol: Any) -> None:
    """Have the wrappers around `protocol`'s transport tell it of half-closes, and of a TLS handshake's end.

    Twisted looks for these methods on the protocol next to the socket, and on the one next to TLS; its
    `ProtocolWrapper`, from which most wrappers are made, has neither. Call it in `connectionMade`.
    """
    wrapper = protocol.transport
    while isinstance(wrapper, ProtocolWrapper) and not _is_tls(wrapper):
        for interface, methods in _TOLD.items():
            if not interface.providedBy(wrapper):
                alsoProvides(wrapper, interface)
                for method in methods:
                    setattr(wrapper, method, getattr(protocol, method))
        wrapper = wrapper.transport


def _is_tls(wrapper: Any) -> bool:
    """Whether it is the TLS layer, and not only above it."""
    return ISSLTransport.providedBy(wrapper) and not ISSLTransport.providedBy(getattr(wrapper, "transport", None))
