"""The UDP ports where agents register."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from rproxy.carriers.carrier import Carrier
from rproxy.config.model import LOOPBACK, ProxyConfig
from rproxy.net.addresses import Address, written
from rproxy.net.binding import ANY_IPV4, ANY_IPV6
from rproxy.net.handover import give_to_newest
from rproxy.net.udp_port import BoundedPort, listen_udp, udp_ports
from rproxy.sources.agents.further_port import FurtherPort
from rproxy.sources.agents.monitor import Monitor
from rproxy.tap.parts import Part, address_of, closed
from rproxy.tap.startup import StartupError, cannot_listen


class AgentsPort(Part):
    """Opens the monitor's ports if any service takes agents.

    They are closed last: agents are answered until all sessions have ended. With SO_REUSEPORT the newest process gets
    all datagrams. They are closed first then: back-ends that do not answer this process any more must not go down, and
    end its sessions with them.
    """

    log = Logger()

    def __init__(self, reactor: Any, config: ProxyConfig, monitor: Monitor, carrier: Carrier) -> None:
        self._reactor = reactor
        self._config = config
        self._monitor = monitor
        self._carrier = carrier
        self._ports: list[IListeningPort] = []
        self._watched: set[int] = set()
        """Descriptors that the carrier watches."""

    def privilegedStartService(self) -> None:
        if self._config.takes_agents:
            self.open(self._config)

    def open(self, config: ProxyConfig) -> None:
        """Open the ports of `config`, all or none, unless some are open: a service takes agents.

        Raises `StartupError`.
        """
        if self._ports:
            return
        self._config = config
        first, *others = config.monitors
        try:
            self._open(first, self._monitor)
            for address in others:
                self._open(address, FurtherPort(self._monitor, address))
        except StartupError:
            self.close()
            raise

    def _open(self, address: Address, protocol: DatagramProtocol) -> None:
        host, number = address
        try:
            port = listen_udp(
                self._reactor,
                number,
                protocol,
                host,
                freebind=self._config.freebind,
                reuse_port=self._config.reuse_port,
            )
        except Exception as error:
            asked = written(address) if host else number
            raise cannot_listen(f"{self._config.key('monitor')} {asked} (UDP)", error) from error
        self._ports.append(port)
        for each in udp_ports(port):
            if hasattr(each, "fileno"):
                self._watch(each)
            if self._config.reuse_port and isinstance(each, BoundedPort):
                give_to_newest(each.socket)
            self.log.info("listening for agents on UDP {address}", address=address_of(each))

    def _watch(self, port: Any) -> None:
        """Have the carrier yield to the reactor while datagrams wait, except while the port does not read."""
        descriptor = port.fileno()

        def watch(watched: bool) -> None:
            if watched:
                self._watched.add(descriptor)
                self._carrier.watch(descriptor)
            elif descriptor in self._watched:
                self._watched.discard(descriptor)
                self._carrier.unwatch(descriptor)

        watch(True)
        port.watch = watch

    @property
    def is_open(self) -> bool:
        """Whether agents can register."""
        return bool(self._ports)

    @property
    def local_address(self) -> Address:
        """Where an agent on this host can register, while the ports are open."""
        address: Any = self._ports[0].getHost()
        return LOOPBACK if address.host in (ANY_IPV4, ANY_IPV6) else address.host, address.port

    def stop_accepting(self) -> Deferred[Any] | None:
        return self.close() if self._config.reuse_port else None

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return self.close()

    def close(self) -> Deferred[Any]:
        """Close the ports. Fires when they are closed."""
        ports, self._ports = self._ports, []
        for port in ports:
            for each in udp_ports(port):
                if isinstance(each, BoundedPort):
                    each.watch(False)
        return closed(*ports)
