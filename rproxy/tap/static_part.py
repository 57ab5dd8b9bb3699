"""The static back-ends of one service as a part of the proxy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import random
from socket import SocketType

import attrs

from rproxy.config.model import AGENT_CHECK, NO_CHECK, BackendConfig, ServiceConfig
from rproxy.net.addresses import Address
from rproxy.net.outgoing import ClientSource
from rproxy.observe.publisher import Publisher
from rproxy.observe.service_log import logger_of
from rproxy.pool.backend import StaticTerms
from rproxy.sessions.service import Service
from rproxy.sources.static.backends import StaticBackends
from rproxy.sources.static.dial import connect
from rproxy.sources.static.row import Checks, Entry
from rproxy.tap.parts import Part
from rproxy.tap.surroundings import Surroundings


class StaticPart(Part):
    """Checks the static back-ends of `service`, whose pool's events `publisher` publishes, until the proxy stops."""

    def __init__(self, config: ServiceConfig, service: Service, publisher: Publisher, process: Surroundings) -> None:
        self._service = service
        log = logger_of(config.name, StaticBackends.log)
        checks = Checks(
            *(process.reactor, process.deadlines, service.pool, publisher, random, process.own.leads_here),
            send_proxy=lambda: service.outbound.send_proxy,
            connect=self._connect,
            log=log,
        )
        self._backends = StaticBackends(checks, process.lookups, self._changed)
        self.apply(config.backends)

    def apply(self, backends: Sequence[BackendConfig]) -> None:
        """Have these back-ends from now on. Those that are gone are drained; no session is touched.

        Called again whenever `Service.outbound` is another one, from which their own ways to connect are derived.
        """
        self._backends.apply(map(_entry, backends))

    def _connect(self, sock: SocketType, remote: Address) -> int:
        """A check comes from where sessions come from, unless that is their client's address."""
        source = self._service.outbound.source
        if source is None or isinstance(source, ClientSource):
            return connect(sock, remote)
        return source.connect(sock, remote, None)

    def _changed(self, entries: Mapping[Address, Entry]) -> None:
        """Those that have a PROXY version of their own are connected to in their own way."""
        outbound = self._service.outbound
        self._service.special = {
            key: attrs.evolve(outbound, send_proxy=entry.send_proxy)
            for key, entry in entries.items()
            if entry.send_proxy is not None
        }

    def startService(self) -> None:
        super().startService()
        self._backends.start()

    def stopService(self) -> None:
        super().stopService()
        self._backends.stop()


def _entry(config: BackendConfig) -> Entry:
    port = int(config.check.removeprefix(AGENT_CHECK)) if config.check.startswith(AGENT_CHECK) else None
    return Entry(
        config.address,
        StaticTerms(config.weight, config.check, config.max_connections),
        connects=config.check != NO_CHECK,
        agent_port=port,
        send_proxy=config.send_proxy,
    )
