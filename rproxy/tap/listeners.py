"""The TCP listeners: for clients, and for operators."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReactorCore, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.carriers.carrier import Carrier
from rproxy.config.endpoints import listen_endpoints
from rproxy.config.model import ProxyConfig, ServiceConfig
from rproxy.net.addresses import written
from rproxy.net.binding import Binding
from rproxy.net.own_listeners import OwnListeners
from rproxy.net.tcp_port import TcpPort, listen_tcp
from rproxy.net.unix_socket import remove_abandoned
from rproxy.observe.http_server import BACKLOG, AdminSite
from rproxy.observe.service_log import logger_of
from rproxy.sessions.service import Service
from rproxy.tap.closing import Closing
from rproxy.tap.parts import Part, address_of
from rproxy.tap.startup import cannot_listen
from rproxy.tap.tls import ServiceTls


class Listeners(Part):
    """Open TCP and Unix ports. They are added to `own`, so that no back-end can be one of them."""

    log = Logger()

    def __init__(self, reactor: Any, own: OwnListeners) -> None:
        self._reactor = reactor
        self._own = own
        self._ports: list[IListeningPort] = []
        self._closing = Closing(reactor, ())

    def _add(self, port: IListeningPort) -> None:
        self._ports.append(port)
        address: Any = port.getHost()
        if hasattr(address, "port"):
            ipv6_only = isinstance(port, TcpPort) and port.binding.ipv6_only
            self._own.add(address.host, address.port, ipv6_only=ipv6_only)

    def stop_accepting(self) -> Deferred[Any]:
        """Close the ports, without losing those who wait to be accepted; connections that were accepted stay."""
        ports, self._ports = self._ports, []
        self._closing = Closing(self._reactor, ports)
        return self._closing.start()

    def hurry(self) -> None:
        self._closing.finish()


class ClientListeners(Listeners):
    """A service's ports for clients."""

    def __init__(
        self,
        reactor: Any,
        config: ServiceConfig,
        service: Service,
        carrier: Carrier,
        own: OwnListeners,
        tls: ServiceTls,
        *,
        freebind: bool,
        reuse_port: bool,
    ) -> None:
        """Raises `ConfigError` for what cannot be listened on."""
        super().__init__(reactor, own)
        self.log = logger_of(config.name, self.log)
        self._key = config.key("listen")
        self._service = service
        self._carrier = carrier
        self._tls = tls
        self._endpoints = listen_endpoints(
            reactor,
            config.listen,
            key=self._key,
            freebind=freebind,
            reuse_port=reuse_port,
            inherited=config.inherited,
        )
        self._stopped = False

    def privilegedStartService(self) -> None:
        for text, endpoint in self._endpoints:
            self._listen(text, endpoint)

    def _listen(self, text: str, endpoint: IStreamServerEndpoint) -> None:
        failures: list[Failure] = []
        remove_abandoned(endpoint)
        listening = self._carrier.serve(endpoint, self._service, text, self._tls.listener(text))
        listening.addCallbacks(self._opened, failures.append)
        if failures:
            raise cannot_listen(f"{self._key} {text}", failures[0].value) from failures[0].value
        if not listening.called:
            listening.addCallback(lambda _: self._stop_if_failed(text, failures))

    def _opened(self, port: IListeningPort) -> None:
        if self._stopped:
            port.stopListening()
            return
        self._add(port)
        self.log.info("listening for clients on {address}", address=address_of(port))

    def _stop_if_failed(self, text: str, failures: list[Failure]) -> None:
        """An endpoint may fail after the start. The proxy ends then: it would run without one of its listeners."""
        if failures:
            self.log.critical("{error}", error=cannot_listen(f"{self._key} {text}", failures[0].value))
            IReactorCore(self._reactor).stop()

    def stop_accepting(self) -> Deferred[Any]:
        self._stopped = True
        return super().stop_accepting()


class OperatorsListener(Listeners):
    """The operators' HTTP port. Their connections stay until the sessions have ended."""

    def __init__(self, reactor: Any, config: ProxyConfig, site: AdminSite, own: OwnListeners) -> None:
        super().__init__(reactor, own)
        self._config = config
        self._site = site

    def privilegedStartService(self) -> None:
        if self._config.admin is None:
            return
        host, port = self._config.admin
        try:
            binding = Binding(host, freebind=self._config.freebind, reuse_port=self._config.reuse_port)
            listening = listen_tcp(self._reactor, port, self._site, binding, BACKLOG)
        except Exception as error:
            raise cannot_listen(f"{self._config.key('admin')} {written((host, port))}", error) from error
        self._add(listening)
        self.log.info("status at http://{address}/status.json", address=address_of(listening))

    def stopService(self) -> None:
        super().stopService()
        self._site.stop()
