"""The sessions of a pool, and the observers of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.interfaces import IReactorTime

from rproxy.config.model import ServiceConfig
from rproxy.net.addresses import Address
from rproxy.observe.refused_clients import RefusedClientsLog
from rproxy.observe.scores import ReportScore
from rproxy.observe.service_figures import ServiceFigures
from rproxy.observe.service_log import logger_of
from rproxy.observe.session_counters import SessionCounters
from rproxy.observe.status_json import ServiceView
from rproxy.observe.trace import SessionTrace
from rproxy.pool.events import Events
from rproxy.pool.pool import Pool
from rproxy.sessions.observers import Observers, SessionObserver
from rproxy.sessions.proxy_headers import ProxyHeaders
from rproxy.sessions.service import DEFAULT, DEFAULT_TERMS, Service, ServiceTerms
from rproxy.tap.policies import saturation_of


@attrs.frozen
class ServedPool:
    """A service and its observers."""

    service: Service
    counters: SessionCounters
    view: ServiceView
    refused: RefusedClientsLog
    score: ReportScore

    def apply(self, config: ServiceConfig) -> None:
        """Serve clients as this configuration says from now on."""
        self.service.use_terms(terms_of(config))
        self.score.saturation = saturation_of(config)

    def stop(self) -> None:
        """Called when all sessions have ended."""
        self.service.stop()
        self.refused.stop()


def terms_of(config: ServiceConfig) -> ServiceTerms:
    """The terms that a configuration gives."""
    return ServiceTerms(
        wait_s=config.wait_s,
        queue=config.each.queue,
        queue_timeout_s=config.each.queue_timeout_s,
        redispatch=config.redispatch,
        first_byte_s=config.first_byte_s,
        reader_timeout_s=config.idle_timeout_s or math.inf,
    )


def use_proxy_headers(service: Service, config: ServiceConfig, clock: IReactorTime) -> None:
    """Have a service read and send PROXY headers, for connections from now on, as a configuration says."""
    service.outbound = attrs.evolve(service.outbound, send_proxy=config.send_proxy)
    service.proxy_headers = None
    if config.proxy_protocol_from:
        service.proxy_headers = headers = ProxyHeaders(config.proxy_protocol_from, clock.seconds)
        headers.log = logger_of(config.name, headers.log)


def serve_pool(
    pool: Pool,
    clock: IReactorTime,
    terms: ServiceTerms = DEFAULT_TERMS,
    *,
    name: str = DEFAULT,
    saturation: float | None = None,
    trace: bool = False,
    observers: Sequence[SessionObserver] = (),
    counts_figures: bool = False,
    publish: Callable[[Events], None] = lambda events: None,
    may_self_connect: Callable[[Address], bool] = lambda address: False,
) -> ServedPool:
    """A service of `pool`; `saturation` is that of the report's score that is shown, `observers` are further ones of
    sessions. `counts_figures` is whether `ServiceView.figures` observes it.
    """
    counters, refused, score = SessionCounters(), RefusedClientsLog(clock, pool), ReportScore(saturation)
    figures = ServiceFigures(clock.seconds)
    counting = [figures] if counts_figures else []
    traces = [SessionTrace(pool, score, clock.seconds)] if trace else []
    service = Service(
        pool,
        clock,
        terms,
        name=name,
        observers=Observers(
            clock.seconds,
            sessions=[counters, refused, *traces, *observers, *counting],
            choices=traces,
            redispatches=[counters, *counting],
        ),
        publish=publish,
        may_self_connect=may_self_connect,
    )
    for each in (refused, service.tls_failures):
        each.log = logger_of(name, each.log)
    return ServedPool(service, counters, ServiceView(service, counters, score, figures), refused, score)
