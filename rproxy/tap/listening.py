"""What `--listen` names, as endpoints: TCP ports of our own, and whatever Twisted's strings describe."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
from twisted.internet import tcp
from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.internet.posixbase import PosixReactorBase
from twisted.plugin import getPlugins
from twisted.python import usage
from zope.interface import implementer

from rproxy.net.addresses import Address
from rproxy.net.binding import ANY_IPV4, ANY_IPV6, Binding, bindings
from rproxy.net.tls import ignore_offered_protocols
from rproxy.tap.endpoints import check_folder, check_no_type, explained
from rproxy.tap.options import host_and_port, local_address

BACKLOG: Final = 4096
_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})
"""Of sockets that Twisted can accept from."""
_BUILT_IN: Final = frozenset({"tcp", "tcp4", "tcp6", "ssl", "unix"})
_WITH_BACKLOG: Final = re.compile(r"(haproxy:)*(tcp|tcp4|tcp6|ssl|tls|unix):")
_BACKLOG: Final = re.compile(r"(?<!\\):backlog=")


class TcpPort(tcp.Port):
    """A TCP port of Twisted's, bound as `binding` says."""

    def __init__(self, port: int, factory: IProtocolFactory, binding: Binding, backlog: int, reactor: Any) -> None:
        super().__init__(port, factory, backlog, binding.host, reactor)
        self.binding = binding

    def createInternetSocket(self) -> socket.socket:
        sock: socket.socket = super().createInternetSocket()
        try:
            self.binding.prepare(sock)
        except OSError:
            sock.close()
            raise
        return sock


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
    """One TCP port of our own."""

    reactor: Any
    port: int
    binding: Binding

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:  # noqa: N803 - Twisted's name
        return execute(listen_tcp, self.reactor, self.port, protocolFactory, self.binding)


class FreeBinding:
    """The reactor as an endpoint sees it whose TCP ports may have addresses that this host has not yet."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        binding = Binding(interface or ANY_IPV4, freebind=True)
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


def listen_endpoints(
    reactor: Any, texts: Sequence[str], *, freebind: bool = False
) -> list[tuple[str, IStreamServerEndpoint]]:
    """What the values of `--listen` name, each with its text: PORT, HOST:PORT, or a Twisted server endpoint string.

    Where several of them take the clients of one address and port, the widest does. Raises `UsageError`.
    """
    own = {text: _address(text) for text in texts if not _is_string(text)}
    named = Counter(own[text] for text in texts if text in own)
    endpoints: list[tuple[str, IStreamServerEndpoint]] = []
    for text in texts:
        if text not in own:
            endpoints.append((text, _from_string(FreeBinding(reactor) if freebind else reactor, text)))
            continue
        address = own[text]
        if named[address] > 1 and address[1]:
            raise usage.UsageError(f"--listen {text}: this port is given twice")
        endpoints += [
            (text, TcpEndpoint(reactor, address[1], binding)) for binding in _bindings(address, named, freebind)
        ]
    return endpoints


def _bindings(address: Address, named: Counter[Address], freebind: bool) -> Iterator[Binding]:
    """The sockets of one port, for what none of the others takes."""
    host, port = address
    if port and any((wider, port) in named for wider in _wider(host)):
        return
    if host == ANY_IPV6 and port and (ANY_IPV4, port) in named:
        yield Binding(host, ipv6_only=True)
        return
    yield from bindings(host, freebind=freebind)


def _wider(host: str) -> tuple[str, ...]:
    """Other values of an address's host that include all its clients: two sockets would be in each other's way."""
    if not host:
        return ()
    if host in (ANY_IPV4, ANY_IPV6):
        return ("",)
    return ("", ANY_IPV6) if ":" in host else ("", ANY_IPV4, ANY_IPV6)


def _is_string(text: str) -> bool:
    """Whether it begins as one of Twisted's strings does, its plugins' included. Raises `UsageError` for one that
    looks like it, and is none.
    """
    prefix = _prefix(text)
    types = {parser.prefix for parser in getPlugins(IStreamServerEndpointStringParser)} | _BUILT_IN
    if prefix == text:
        return False
    if prefix not in types:
        check_no_type(text, prefix, types)
    return prefix in types


def _prefix(text: str) -> str:
    return text.partition(":")[0]


def _from_string(reactor: Any, text: str) -> IStreamServerEndpoint:
    ignore_offered_protocols()
    try:
        check_folder(text)
        endpoint = _described(reactor, text)
        _demand_listening(endpoint)
        return endpoint
    except Exception as error:
        raise usage.UsageError(f"--listen {text}: {explained(_prefix(text), error)}") from None


def _described(reactor: Any, text: str) -> IStreamServerEndpoint:
    """With our backlog, unless `text` says one. Raises what its parser raises."""
    if _WITH_BACKLOG.match(text) and not _BACKLOG.search(text):
        with suppress(TypeError):  # it has one by position; or it is wrong anyhow
            long: IStreamServerEndpoint = serverFromString(reactor, f"{text}:backlog={BACKLOG}")
            return long
    as_is: IStreamServerEndpoint = serverFromString(reactor, text)
    return as_is


def _demand_listening(endpoint: Any) -> None:
    """Look at an inherited socket before Twisted, which believes what it is told. Raises `ValueError`, `OSError`."""
    while hasattr(endpoint, "_wrappedEndpoint"):
        endpoint = endpoint._wrappedEndpoint
    if not isinstance(endpoint, AdoptedStreamServerEndpoint):
        return
    with socket.socket(fileno=os.dup(endpoint.fileno)) as sock:
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"the inherited socket is of the kind {_name(sock.type)}, and SOCK_STREAM is needed")
        if sock.family != endpoint.addressFamily:
            raise ValueError(f"the inherited socket is {_name(sock.family)}, not {_name(endpoint.addressFamily)}")
        if sock.family not in _FAMILIES:
            raise ValueError(f"sockets of {_name(sock.family)} cannot be listened on")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("the inherited socket does not listen")


def _name(constant: object) -> str:
    return str(getattr(constant, "name", constant))


def _address(text: str) -> Address:
    host, port = host_and_port("listen", text, host="")
    return local_address("listen", host), port
