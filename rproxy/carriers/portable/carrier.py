"""The portable carrier: Twisted's own transports, for any endpoint and any reactor.

Chapter 4.2 of the report: a Factory (`ClientFactory`) makes a Protocol for each client (`ClientSide`), paired with one
of a client Factory (`BackendSide`) for the chosen back-end. Bytes go from one transport straight to the other. Each is
the other's producer, so a slow reader pauses the reading for it and no data piles up. An end of stream is passed on as
such, a reset as a reset.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IListeningPort,
    IProtocolFactory,
    IReactorTCP,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory

from rproxy.carriers.carrier import SLICE
from rproxy.carriers.portable.backend_side import BackendFactory, BackendSide
from rproxy.carriers.portable.client_side import ClientSide
from rproxy.carriers.portable.handshakes import Handshakes
from rproxy.carriers.portable.header_reader import HeaderFactory
from rproxy.carriers.portable.ports import Ports
from rproxy.net.outgoing_tcp import connect_tcp
from rproxy.pool.backend import Backend
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.outbound import Outbound
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.timing.wheel import Wheel

_KEEPALIVE_DELAY_S: Final = 0.2
"""Most sessions are over before keepalive is enabled, which takes several system calls."""


class ClientFactory(Factory):
    """Makes the protocols of the clients of one listener."""

    noisy = False

    def __init__(self, carrier: PortableCarrier, service: Service, name: str) -> None:
        self._carrier = carrier
        self.service = service
        self.listener = name

    def buildProtocol(self, addr: IAddress | None) -> ClientSide:
        self._carrier.newest = side = ClientSide(self._carrier)
        side.session = Session(self.service, side, self.listener)
        self._carrier.capacity.enter()
        own = self.service.capacity
        own.sessions += 1
        if own.sessions >= own.sessions_max:
            own.filled()
        return side


class PortableCarrier:
    """A `Carrier` of Twisted's own transports."""

    def __init__(self, reactor: IReactorTCP, deadlines: Wheel, capacity: Capacity) -> None:
        self.deadlines = deadlines
        self.capacity = capacity
        self.clients: set[ClientSide] = set()
        """Those with a connection left, to the client or to its back-end."""
        self.handshakes = Handshakes(capacity)
        self.newest: ClientSide | None = None
        self.ports = Ports(capacity)
        self._factories: WeakKeyDictionary[IListeningPort, tuple[ClientFactory, IProtocolFactory]] = WeakKeyDictionary()
        """By port: the factory of its clients, and the one that `listen` got."""
        self._reactor = reactor
        self._without_keepalive: list[BackendSide] = []

    def _below(self, clients: ClientFactory, tls: Any) -> IProtocolFactory:
        """The factory of the layer below: that of TLS, or `clients` itself; `tls` is as for `Carrier.serve`."""
        if tls is None:
            return clients
        from twisted.protocols.tls import TLSMemoryBIOFactory  # needs pyOpenSSL

        clock: Any = self._reactor
        factory: IProtocolFactory = TLSMemoryBIOFactory(tls, False, clients, clock)
        return factory

    def serve(
        self, endpoint: IStreamServerEndpoint, service: Service, name: str = "", tls: Any = None
    ) -> Deferred[IListeningPort]:
        return self.listen(endpoint, service, name, tls).addCallback(self.read_headers, service)

    def listen(
        self, endpoint: IStreamServerEndpoint, service: Service, name: str, tls: Any
    ) -> Deferred[IListeningPort]:
        """As `serve`, but PROXY headers are not read."""
        clients = ClientFactory(self, service, name)
        factory = self._below(clients, tls)
        listening: Deferred[IListeningPort] = endpoint.listen(factory)
        return listening.addCallback(self._opened, clients, factory)

    def read_headers(self, port: IListeningPort, service: Service) -> IListeningPort:
        """Have PROXY headers read on `port` if the service takes any, now or later: below TLS, next to the socket.

        Raises `ValueError` if the port is of a kind that has no place for that, and `service` takes headers.
        """
        opened: Any = port
        if isinstance(getattr(opened, "factory", None), Factory):
            opened.factory = HeaderFactory(opened.factory, self, service)
        elif service.proxy_headers is not None:
            port.stopListening()
            raise ValueError("PROXY headers cannot be read on it")
        return port

    def _opened(self, port: IListeningPort, clients: ClientFactory, factory: IProtocolFactory) -> IListeningPort:
        self.ports.add(port, clients.service.capacity)
        self._factories[port] = clients, factory
        return port

    def reassign(self, port: IListeningPort, service: Service, name: str, tls: Any = None) -> None:
        self.relisten(port, service, name, tls)
        self.read_headers(port, service)

    def relisten(self, port: IListeningPort, service: Service, name: str, tls: Any) -> None:
        """As `reassign`, but PROXY headers are not read any more."""
        clients, factory = self._factories[port]
        clients.service, clients.listener = service, name
        opened: Any = port
        if isinstance(getattr(opened, "factory", None), HeaderFactory):
            opened.factory = opened.factory.above
        if getattr(opened, "factory", None) is factory:  # its endpoint has put no layer around it
            opened.factory = factory = self._below(clients, tls)
            self._factories[port] = clients, factory
        self.ports.reassign(port, service.capacity)

    def client_factory(self, port: IListeningPort) -> ClientFactory:
        """The factory of the clients of a port that `serve` has opened."""
        return self._factories[port][0]

    def connect(self, client: ClientSide, backend: Backend) -> IConnector:
        """Start to connect to `backend`. `ClientSide` limits the time, so Twisted's own timeout is off."""
        service = client.session.service
        outbound = service.outbound_to(backend) if service.special else service.outbound
        if outbound.tls is not None:
            return self._connect_tls(client, backend, outbound)
        return self._dial(BackendFactory(client, self._enable_keepalive_later), client, backend, outbound)

    def _dial(self, factory: Any, client: ClientSide, backend: Backend, outbound: Outbound) -> IConnector:
        """Start the TCP connection, from where `outbound` says."""
        address = (backend.address, backend.port)
        if outbound.source is None:
            return self._reactor.connectTCP(*address, factory, timeout=None)  # type: ignore[arg-type]
        connect = partial(outbound.source.connect, remote=address, client=client.client())
        return connect_tcp(address, factory, connect, self._reactor)

    def _connect_tls(self, client: ClientSide, backend: Backend, outbound: Outbound) -> IConnector:
        from rproxy.carriers.portable.tls_backend import TlsAttempt  # needs pyOpenSSL

        attempt: Any = TlsAttempt(client, self._enable_keepalive_later, backend)
        below: Any = attempt.below(outbound.tls, self._reactor)
        attempt.connector = self._dial(below, client, backend, outbound)
        return attempt  # type: ignore[no-any-return]

    def _enable_keepalive_later(self, side: BackendSide) -> None:
        """Enable keepalive on a back-end's connection if it lasts. One timer serves many connections."""
        if not self._without_keepalive:
            self.deadlines.arm(self, _KEEPALIVE_DELAY_S, self._enable_keepalive)
        self._without_keepalive.append(side)

    def _enable_keepalive(self) -> None:
        sides, self._without_keepalive = self._without_keepalive, []
        for side in sides:
            side.enable_keepalive()

    def watch(self, descriptor: int) -> None:
        """Nothing to do: this carrier's sockets are all the reactor's."""

    def unwatch(self, descriptor: int) -> None:
        """Nothing to do, as for `watch`."""

    def slices(self) -> Iterator[list[Session]]:
        clients = list(self.clients)
        for start in range(0, len(clients), SLICE):
            part = clients[start : start + SLICE]
            yield [client.session for client in part if client.session.ending is None]

    def abort(self) -> None:
        for client in list(self.clients):
            client.cut(Ending.STOPPED)
