"""Wires one service: its pool, its sessions, and the observers of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from rproxy.config.model import ProxyConfig, ServiceConfig
from rproxy.net.addresses import Address
from rproxy.net.own_listeners import OwnListeners
from rproxy.observe.pool_log import PoolLog
from rproxy.observe.publisher import Publisher
from rproxy.observe.refused_clients import RefusedClientsLog
from rproxy.observe.scores import ReportScore
from rproxy.observe.session_counters import SessionCounters
from rproxy.observe.status_json import ServiceView
from rproxy.observe.trace import SessionTrace
from rproxy.pool.events import Events
from rproxy.pool.pool import Pool
from rproxy.sessions.observers import Observers, SessionObserver
from rproxy.sessions.service import DEFAULT_TERMS, Service, ServiceTerms
from rproxy.sources.agents.monitor import Monitor
from rproxy.sources.slow_start import SlowStart
from rproxy.tap.policies import PolicyFailureLog, policy_of, saturation_of


@attrs.frozen
class ServedPool:
    """A service and its observers."""

    service: Service
    counters: SessionCounters
    view: ServiceView
    refused: RefusedClientsLog

    def stop(self) -> None:
        """Called when all sessions have ended."""
        self.service.stop()
        self.refused.stop()


def terms_of(config: ServiceConfig) -> ServiceTerms:
    """The terms that a configuration gives."""
    return ServiceTerms(
        wait_s=config.wait_s,
        redispatch=config.redispatch,
        first_byte_s=config.first_byte_s,
        reader_timeout_s=config.idle_timeout_s or math.inf,
    )


def serve_pool(
    pool: Pool,
    clock: IReactorTime,
    terms: ServiceTerms = DEFAULT_TERMS,
    *,
    saturation: float | None = None,
    trace: bool = False,
    observers: Sequence[SessionObserver] = (),
    publish: Callable[[Events], None] = lambda events: None,
    may_self_connect: Callable[[Address], bool] = lambda address: False,
) -> ServedPool:
    """A service of `pool`; `saturation` is that of the report's score that is shown, `observers` are further ones of
    sessions.
    """
    counters, refused, score = SessionCounters(), RefusedClientsLog(clock, pool), ReportScore(saturation)
    traces = [SessionTrace(pool, score, clock.seconds)] if trace else []
    service = Service(
        pool,
        clock,
        terms,
        observers=Observers(
            clock.seconds,
            sessions=[counters, refused, *traces, *observers],
            choices=traces,
            redispatches=[counters],
        ),
        publish=publish,
        may_self_connect=may_self_connect,
    )
    return ServedPool(service, counters, ServiceView(service, counters, score), refused)


class ServiceWiring:
    """What the proxy has once for each service: a pool, the publisher and the log of its events, and its sessions."""

    def __init__(self, reactor: Any, config: ServiceConfig, process: ProxyConfig, own: OwnListeners) -> None:
        """Raises `ConfigError`."""
        self.config = config
        self.pool = Pool(
            policy_of(config, Random()),
            PolicyFailureLog(reactor.seconds),
            config.backend_port,
            process.timing.probe_timeout_s,
            process.limits,
        )
        self.publisher = Publisher()
        self.slow_start = SlowStart(reactor, self.pool, self.publisher)
        self.pool_log = PoolLog(reactor, process.limits.confirmed, trace=process.trace)
        self.served = serve_pool(
            self.pool,
            reactor,
            terms_of(config),
            saturation=saturation_of(config),
            trace=process.trace,
            publish=self.publisher,
            may_self_connect=own.may_self_connect,
        )

    def subscribe(self, source: Monitor) -> None:
        """Have the pool's events observed: by `source`, which fills the pool, before all others."""
        for observing in (source, self.slow_start, self.pool_log):
            self.publisher.subscribe(observing.observers())
