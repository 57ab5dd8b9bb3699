"""What wrapping protocols are made to pass on: half-closes, and the end of a TLS handshake."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer

from rproxy.carriers.portable.wrappers import pass_on


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class Innermost(Protocol):
    """The protocol within all wrappers; notes the calls that are passed on to it."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def connectionMade(self) -> None:
        pass_on(self)

    def readConnectionLost(self) -> None:
        self.called.append("read")

    def writeConnectionLost(self) -> None:
        self.called.append("write")

    def handshakeCompleted(self) -> None:
        self.called.append("handshake")


@implementer(ISSLTransport)
class Tls(ProtocolWrapper):
    """A wrapper with TLS's interface, as Twisted's TLS layer is."""


def wrapped(*layers: type[ProtocolWrapper]) -> tuple[Innermost, list[ProtocolWrapper]]:
    """An `Innermost` within wrappers, the innermost first, on a socket."""
    ours = Innermost()
    protocols: list[ProtocolWrapper] = []
    outer: Protocol = ours
    for layer in layers:
        outer = layer(WrappingFactory(Factory()), outer)
        protocols.append(outer)
    outer.makeConnection(StringTransport())
    return ours, protocols


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_half_closes_pass_through_any_number_of_wrappers(layers: int) -> None:
    ours, protocols = wrapped(*[ProtocolWrapper] * layers)
    nearest = IHalfCloseableProtocol(protocols[-1])
    nearest.readConnectionLost()
    nearest.writeConnectionLost()
    assert ours.called == ["read", "write"]


def test_tls_has_no_half_close_and_its_handshake_is_passed_on_through_wrappers() -> None:
    ours, (within, tls) = wrapped(ProtocolWrapper, Tls)
    assert not IHalfCloseableProtocol.providedBy(tls)
    IHandshakeListener(within).handshakeCompleted()
    assert ours.called == ["handshake"]


def test_a_wrapper_that_knows_half_closes_is_left_as_it_is() -> None:
    @implementer(IHalfCloseableProtocol)
    class Knowing(ProtocolWrapper):
        def readConnectionLost(self) -> None:
            within: Any = self.wrappedProtocol
            within.called.append("its own way")

        def writeConnectionLost(self) -> None:
            pass

    ours, (knowing,) = wrapped(Knowing)
    IHalfCloseableProtocol(knowing).readConnectionLost()
    assert ours.called == ["its own way"]


def test_without_a_wrapper_nothing_is_passed_on() -> None:
    ours = Innermost()
    ours.makeConnection(StringTransport())
    assert ours.called == []
