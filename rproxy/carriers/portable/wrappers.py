"""Calls that protocol wrappers around a transport, such as for TLS or the PROXY header, do not forward."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import alsoProvides

_PASSED_ON = {
    IHalfCloseableProtocol: ("readConnectionLost", "writeConnectionLost"),
    IHandshakeListener: ("handshakeCompleted",),
}


def pass_on(protocol: Any) -> None:
    """Have the wrappers of `protocol`'s transport call it at half-closes and at the end of a TLS handshake.

    Twisted calls these methods on the protocol next to the socket, and on the one next to TLS; `ProtocolWrapper`, the
    base of most wrappers, has neither. To be called in `connectionMade`.
    """
    wrapper = protocol.transport
    while isinstance(wrapper, ProtocolWrapper) and not _is_tls(wrapper):
        for interface, methods in _PASSED_ON.items():
            if not interface.providedBy(wrapper):
                alsoProvides(wrapper, interface)
                for method in methods:
                    setattr(wrapper, method, getattr(protocol, method))
        wrapper = wrapper.transport


def _is_tls(wrapper: Any) -> bool:
    """Whether it is the TLS layer itself; a wrapper above it provides `ISSLTransport`, too."""
    return ISSLTransport.providedBy(wrapper) and not ISSLTransport.providedBy(getattr(wrapper, "transport", None))
