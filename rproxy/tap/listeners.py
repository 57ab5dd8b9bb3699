"""The listeners for clients, and what they have in common with that for operators."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, TypeGuard

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReactorCore, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.config.endpoints import listen_endpoints
from rproxy.config.model import ServiceConfig
from rproxy.net.addresses import Address
from rproxy.net.endpoints import remove_abandoned
from rproxy.net.handover import give_to_all, give_to_previous
from rproxy.net.own_listeners import OwnListeners
from rproxy.net.tcp_port import TcpEndpoint, TcpPort
from rproxy.observe.service_log import logger_of
from rproxy.sessions.service import Service
from rproxy.tap.closing import Closing
from rproxy.tap.parts import Part, address_of, closed
from rproxy.tap.startup import StartupError, cannot_listen
from rproxy.tap.surroundings import Surroundings
from rproxy.tap.tls import ServiceTls


class Listeners(Part):
    """Open TCP and Unix ports. They are added to `own`, so that no back-end can be one of them."""

    log = Logger()

    def __init__(self, reactor: Any, own: OwnListeners) -> None:
        self._reactor = reactor
        self._own = own
        self._ports: list[IListeningPort] = []
        self._closing: set[Closing] = set()

    def _add(self, port: IListeningPort) -> None:
        """Raises `OSError` if clients of this port could come to another one of this process: they would by chance."""
        if _is_shared(port) and self._own.overlaps(*_address(port), ipv6_only=_is_ipv6_only(port)):
            port.stopListening()
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._ports.append(port)
        if hasattr(port.getHost(), "port"):
            self._own.add(*_address(port), ipv6_only=_is_ipv6_only(port))

    def _close(self, port: IListeningPort) -> Deferred[Any]:
        """Close one of them; connections that it has accepted stay."""
        self._ports.remove(port)
        if hasattr(port.getHost(), "port"):
            self._own.remove(*_address(port), ipv6_only=_is_ipv6_only(port))
        return self._drain(port)

    def _drain(self, *ports: IListeningPort) -> Deferred[Any]:
        """Close ports, without losing those who wait to be accepted. Fires when they are closed."""
        closing = Closing(self._reactor, ports)
        self._closing.add(closing)
        return closing.start().addBoth(lambda _: self._closing.discard(closing))

    @property
    def is_closing(self) -> bool:
        """Whether clients may still be accepted on ports that are being closed."""
        return bool(self._closing)

    def stop_accepting(self) -> Deferred[Any]:
        """Close the ports, without losing those who wait to be accepted; connections that were accepted stay."""
        self.hurry()
        ports, self._ports = self._ports, []
        if not self.running:  # the start has failed: they have let nobody in
            return closed(*ports)
        return self._drain(*ports)

    def hurry(self) -> None:
        for closing in list(self._closing):
            closing.finish()


def _address(port: IListeningPort) -> Address:
    address: Any = port.getHost()
    return address.host, address.port


def _is_shared(port: IListeningPort) -> TypeGuard[TcpPort]:
    """Whether other processes may listen at its address, too."""
    return isinstance(port, TcpPort) and port.binding.reuse_port


def _is_ipv6_only(port: IListeningPort) -> bool:
    return isinstance(port, TcpPort) and port.binding.ipv6_only


@attrs.frozen(eq=False)
class Listener:
    """A listener of a service, as the configuration names it: `text` is its entry, `name` the key and the entry.

    One that is `inherited` was open before this process began.
    """

    text: str
    name: str
    endpoint: IStreamServerEndpoint
    inherited: bool = False

    def stands_for(self, other: Listener) -> bool:
        """Whether it accepts the clients of `other`. Of an inherited one only its text is known."""
        if self.inherited or not isinstance(self.endpoint, TcpEndpoint):
            return self.text == other.text
        return self.endpoint == other.endpoint


class ClientListeners(Listeners):
    """A service's ports for clients. They are opened at the start, or by `ListenerChanges`."""

    def __init__(self, config: ServiceConfig, service: Service, tls: ServiceTls, process: Surroundings) -> None:
        """Raises `ConfigError` for what cannot be listened on."""
        super().__init__(process.reactor, process.own)
        self.log = logger_of(config.name, self.log)
        self._service = service
        self._tls = tls
        self._carrier = process.carrier
        self._process = process.config
        self._at_start = self.named_by(config)
        """Those to open at the start; none once any is open."""
        self.opened: dict[Listener, IListeningPort | None] = {}
        """None while a listener is being opened."""

    def named_by(self, config: ServiceConfig) -> list[Listener]:
        """The listeners that a configuration names. Raises `ConfigError` for what cannot be listened on."""
        key = config.key("listen")
        endpoints = listen_endpoints(
            self._reactor,
            config.listen,
            key=key,
            freebind=self._process.freebind,
            reuse_port=self._process.reuse_port,
            inherited=config.inherited,
        )
        inherited = config.inherited
        return [Listener(text, f"{key} {text}", endpoint, text in inherited) for text, endpoint in endpoints]

    def privilegedStartService(self) -> None:
        for listener in self._at_start:
            self.open(listener, self._stop_process)

    def startService(self) -> None:
        """Everything has started, so nothing fails any more that would lose clients: take some."""
        super().startService()
        for port in self._ports:
            if _is_shared(port):
                give_to_all(port.socket)

    def open(self, listener: Listener, failed: Callable[[StartupError], None]) -> None:
        """Open a listener. Raises `StartupError`, or calls `failed` with it: an endpoint may fail later."""
        failures: list[Failure] = []
        self._at_start = []
        remove_abandoned(listener.endpoint)
        self.opened[listener] = None
        text = listener.text
        listening = self._carrier.serve(listener.endpoint, self._service, text, self._tls.listener(text))
        listening.addCallback(self._opened, listener).addErrback(failures.append)
        if failures:
            del self.opened[listener]
            raise cannot_listen(listener.name, failures[0].value) from failures[0].value
        if not listening.called:
            listening.addCallback(lambda _: self._failed_later(listener, failures, failed))

    def _opened(self, port: IListeningPort, listener: Listener) -> None:
        if listener not in self.opened:  # closed meanwhile
            port.stopListening()
            return
        self._add(port)
        if _is_shared(port) and not self.running:
            give_to_previous(port.socket)
        self.opened[listener] = port
        self.log.info("listening for clients on {address}", address=address_of(port))

    def _failed_later(
        self, listener: Listener, failures: list[Failure], failed: Callable[[StartupError], None]
    ) -> None:
        if failures:
            self.opened.pop(listener, None)
            failed(cannot_listen(listener.name, failures[0].value))

    def _stop_process(self, error: StartupError) -> None:
        """An endpoint has failed after the start. The proxy ends then: it would run without one of its listeners."""
        self.log.critical("{error}", error=error)
        IReactorCore(self._reactor).stop()

    def take(self, listener: Listener, before: Listener, owner: ClientListeners) -> None:
        """From now on `before`, which is open and `owner`'s, is this service's `listener`; `settle` is to follow.

        Its socket stays open.
        """
        port = owner.opened.pop(before)
        assert port is not None
        self._at_start = []
        owner._ports.remove(port)
        self._ports.append(port)
        self.opened[listener] = port
        self.log.info("takes over the listener on {address}", address=address_of(port))

    def settle(self) -> None:
        """Have all listeners that are open accept clients as the service's configuration says now."""
        for listener, port in self.opened.items():
            try:
                if port is not None:
                    self._carrier.reassign(port, self._service, listener.text, self._tls.listener(listener.text))
            except ValueError as error:
                self.log.critical("{error}", error=cannot_listen(listener.name, error))

    def close(self, listener: Listener) -> Deferred[Any] | None:
        """Close a listener that is open, or being opened. Sessions of its clients go on."""
        port = self.opened.pop(listener)
        if port is None:
            return None
        self.log.info("closed the listener on {address}", address=address_of(port))
        return self._close(port)

    def stop_accepting(self) -> Deferred[Any]:
        self._at_start = []
        self.opened.clear()
        return super().stop_accepting()
