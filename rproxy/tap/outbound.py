"""How a service's sessions connect to back-ends, as its configuration says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.logger import Logger

from rproxy.config.model import CLIENT_SOURCE, ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.net.outgoing import AddressSource, ClientSource, UnusableSource
from rproxy.sessions.outbound import Source
from rproxy.sessions.service import Service
from rproxy.tap.parts import Part
from rproxy.tap.startup import StartupError
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit


class SourceLog:
    """Logs what cannot be connected from its source. `seconds` is a monotonic clock."""

    log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._limit = RateLimit.once_in(LOG_EVERY_S)

    def __call__(self, source: str, line: str) -> None:
        """A `Report`."""
        if self._limit.admit(self._seconds(), source):
            self.log.warn("{line}", line=line)


class OutboundPart(Part):
    """Sets the `outbound` of a service."""

    def __init__(self, reactor: Any, config: ServiceConfig, service: Service, freebind: bool) -> None:
        """`freebind`: this host may have the sources only later. Raises `ConfigError`."""
        self.log = SourceLog(reactor.seconds)
        self._service = service
        self._freebind = freebind
        self._config = attrs.evolve(config, source=())
        self.apply(config)

    def apply(self, config: ServiceConfig) -> None:
        """Connect as this configuration says from now on. Raises `ConfigError`, and has changed nothing then."""
        self.prepared(config)()

    def prepared(self, config: ServiceConfig) -> Callable[[], None]:
        """Return what makes the service connect as this configuration says. Raises `ConfigError`; changes nothing."""
        source = self._service.outbound.source if config.source == self._config.source else self._source(config)
        if source is not None:
            try:
                source.check()
            except UnusableSource as error:
                raise ConfigError(error.reason, config.key("source"), error.source) from None

        def apply() -> None:
            self._config = config
            self._service.outbound = attrs.evolve(self._service.outbound, source=source)

        return apply

    def _source(self, config: ServiceConfig) -> Source | None:
        if not config.source:
            return None
        if config.source == (CLIENT_SOURCE,):
            return ClientSource(self.log)
        return AddressSource(config.source, self.log, freebind=self._freebind)

    def startService(self) -> None:
        """Raises `StartupError` if the process has shed the privileges that connecting needs."""
        super().startService()
        source = self._service.outbound.source
        if source is not None:
            try:
                source.check()
            except UnusableSource as error:
                raise StartupError(f"{self._config.key('source')} {error}") from None
