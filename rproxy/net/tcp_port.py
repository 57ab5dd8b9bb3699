"""TCP ports, bound to addresses of either family or both, also to those that this host does not have yet."""

from __future__ import annotations

import socket
from typing import Any, Final

import attrs
from twisted.internet import tcp
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.posixbase import PosixReactorBase
from zope.interface import implementer

from rproxy.net.binding import ANY_IPV4, Binding

BACKLOG: Final = 4096


class TcpPort(tcp.Port):
    """A TCP port of Twisted's, bound as `binding` says."""

    def __init__(self, port: int, factory: IProtocolFactory, binding: Binding, backlog: int, reactor: Any) -> None:
        super().__init__(port, factory, backlog, binding.host, reactor)
        self.binding = binding

    def createInternetSocket(self) -> socket.socket:
        return self.binding.prepared(super().createInternetSocket())


def listen_tcp(
    reactor: Any, port: int, factory: IProtocolFactory, binding: Binding, backlog: int = BACKLOG
) -> IListeningPort:
    """Open a TCP port. Raises what `reactor.listenTCP` raises."""
    if not isinstance(reactor, PosixReactorBase):
        opened: IListeningPort = reactor.listenTCP(port, factory, backlog, binding.host)
        return opened
    listening = TcpPort(port, factory, binding, backlog, reactor)
    listening.startListening()
    return listening


@implementer(IStreamServerEndpoint)
@attrs.frozen
class TcpEndpoint:
    """A `TcpPort` as an endpoint."""

    reactor: Any
    port: int
    binding: Binding

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:  # noqa: N803 - Twisted's name
        return execute(listen_tcp, self.reactor, self.port, protocolFactory, self.binding)


class BindingReactor:
    """A reactor for endpoints, whose TCP ports are bound with the options of a `Binding`."""

    def __init__(self, reactor: Any, *, freebind: bool, reuse_port: bool) -> None:
        self._reactor = reactor
        self._options = {"freebind": freebind, "reuse_port": reuse_port}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        binding = Binding(interface or ANY_IPV4, **self._options)
        return listen_tcp(self._reactor, port, factory, binding, backlog)

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,  # noqa: N803 - Twisted's name
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        from twisted.protocols.tls import TLSMemoryBIOFactory  # needs pyOpenSSL

        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)
