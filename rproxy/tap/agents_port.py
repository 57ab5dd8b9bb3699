"""The UDP port where agents register."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from rproxy.carriers.carrier import Carrier
from rproxy.config.model import LOOPBACK, ProxyConfig
from rproxy.net.addresses import Address, written
from rproxy.net.binding import ANY_IPV4, ANY_IPV6
from rproxy.net.udp_port import listen_udp, udp_ports
from rproxy.sources.agents.monitor import Monitor
from rproxy.tap.parts import Part, address_of, closed
from rproxy.tap.startup import StartupError, cannot_listen


class AgentsPort(Part):
    """Opens the monitor's port. It is closed last: agents are answered until all sessions have ended."""

    log = Logger()

    def __init__(self, reactor: Any, config: ProxyConfig, monitor: Monitor, carrier: Carrier) -> None:
        self._reactor = reactor
        self._config = config
        self._monitor = monitor
        self._carrier = carrier
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        if not self._config.takes_agents:
            return
        (host, port), *others = self._config.monitors
        if others:
            raise StartupError(f"{self._config.key('monitor')}: agents register at one address only")
        try:
            self._port = listen_udp(self._reactor, port, self._monitor, host, freebind=self._config.freebind)
        except Exception as error:
            asked = written((host, port)) if host else port
            raise cannot_listen(f"{self._config.key('monitor')} {asked} (UDP)", error) from error
        for each in udp_ports(self._port):
            if hasattr(each, "fileno"):
                self._watch(each)
            self.log.info("listening for agents on UDP {address}", address=address_of(each))

    def _watch(self, port: Any) -> None:
        """Have the carrier yield to the reactor while datagrams wait, except while the port does not read."""
        descriptor = port.fileno()
        self._carrier.watch(descriptor)
        port.watch = lambda watched: (self._carrier.watch if watched else self._carrier.unwatch)(descriptor)

    @property
    def local_address(self) -> Address:
        """Where an agent on this host can register, while the port is open."""
        assert self._port is not None
        address: Any = self._port.getHost()
        return LOOPBACK if address.host in (ANY_IPV4, ANY_IPV6) else address.host, address.port

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        port, self._port = self._port, None
        return closed(port)
