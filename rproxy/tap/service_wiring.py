"""Wires one service: its pool, its sessions, what fills and observes them, its listeners and timeouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from rproxy.config.mistakes import carrier_without_tls
from rproxy.config.model import ServiceConfig
from rproxy.net.addresses import Address
from rproxy.observe.pool_log import PoolLog
from rproxy.observe.publisher import Publisher
from rproxy.observe.service_log import logger_of
from rproxy.observe.shadow_json import ComparedPolicies
from rproxy.pool.pool import Pool
from rproxy.pool.states import State
from rproxy.sessions.loop_detector import LoopDetector
from rproxy.sessions.sweep import of_service
from rproxy.sources.agents.service_agents import AgentFilter
from rproxy.sources.slow_start import SlowStart
from rproxy.tap.client_limits import ClientLimits
from rproxy.tap.listeners import ClientListeners
from rproxy.tap.outbound import OutboundPart
from rproxy.tap.parts import Part, Timers
from rproxy.tap.policies import PolicyFailureLog, changed_policies, policies_of, saturation_of
from rproxy.tap.service import serve_pool, terms_of, use_proxy_headers
from rproxy.tap.session_timeouts import SessionTimeouts
from rproxy.tap.static_part import StaticPart
from rproxy.tap.surroundings import Surroundings
from rproxy.tap.tls import ServiceTls


class ServiceWiring:
    """What the proxy has for each service: a pool, what fills and observes it, listeners, and timeouts of sessions.

    `parts` are its parts, which the proxy starts and stops with those of other services.
    """

    def __init__(self, config: ServiceConfig, process: Surroundings) -> None:
        """Raises `ConfigError`."""
        self.config = config
        self._process = process
        reactor, limits, trace = process.reactor, process.config.limits, process.config.trace
        self.policies = policies_of(config, reactor.seconds)
        self.pool = Pool(
            self.policies.whole,
            PolicyFailureLog(reactor.seconds),
            config.backend_port,
            process.config.timing.probe_timeout_s,
            limits,
        )
        self._max_connections_each = config.each.max_connections
        self.pool.limit_each(self._max_connections_each, reactor.seconds())
        self.publisher = Publisher()
        self.agents = process.monitor.add(self.pool, self.publisher, accepted_agents(config))
        slow_start = SlowStart(reactor, self.pool, self.publisher)
        pool_log = PoolLog(reactor, limits.confirmed, trace=trace)
        pool_log.log = logger_of(config.name, pool_log.log)
        for observing in (self.agents, slow_start, pool_log):  # the agents' timers before all others
            self.publisher.subscribe(observing.observers())
        self.publisher.subscribe(process.history.observers(config.name))
        self.served = serve_pool(
            self.pool,
            reactor,
            terms_of(config),
            name=config.name,
            saturation=saturation_of(config),
            trace=trace,
            counts_figures=process.config.has_operators,
            publish=self.publisher,
            may_self_connect=process.own.may_self_connect,
        )
        if process.config.has_operators:
            self.publisher.subscribe(self.served.view.figures.observers())
        self._observers = self.served.service.observers.sessions
        self.log_accesses()
        self.served.service.chooses_by_client = config.affinity is not None
        if process.choices is not None:
            self.served.service.recorder = process.choices.add(config.name, self.pool)
        self.tls = ServiceTls(config)
        self._use_tls()
        use_proxy_headers(self.served.service, config, reactor)
        self.timers = Timers(slow_start, pool_log, self._loop_detector(process))
        self.listeners = ClientListeners(config, self.served.service, self.tls, process)
        self.outbound = OutboundPart(reactor, config, self.served.service, process.config.freebind)
        self.clients = ClientLimits(reactor, config, self.served.service, process.carrier)
        self.static = StaticPart(config, self.served.service, self.publisher, process)
        self.timeouts = SessionTimeouts(reactor, config, self.served, process.carrier, self.publisher)
        self.parts: Final[tuple[Part, ...]] = (
            self.timers,
            self.listeners,
            self.static,
            self.timeouts,
            self.outbound,
            self.clients,
        )

    def _loop_detector(self, process: Surroundings) -> LoopDetector:
        """For loops that fill this service, which may have fewer sessions than the process."""
        service = self.served.service
        slices = of_service(process.carrier.slices, service)
        detector = LoopDetector(process.reactor, slices, service.capacity, process.exclude_loop)
        detector.log = logger_of(service.name, detector.log)
        return detector

    def _use_tls(self) -> None:
        service = self.served.service
        service.outbound = attrs.evolve(service.outbound, tls=self.tls.to_backends)

    def log_accesses(self) -> None:
        """Have the process' access log told of its sessions from now on, if there is one."""
        process, service = self._process, self.served.service
        service.observers.sessions = (*self._observers, *process.access_log.observers)
        service.notes_choices = process.config.has_operators or process.access_log.shows_scores
        self.pool.notes_values, self.pool.chosen_value = process.access_log.shows_scores, None

    def read_tls_again(self) -> None:
        """Read the files of certificates again; connections that are open keep theirs."""
        self.tls.apply(self.config)
        self._use_tls()
        self.static.apply(self.config.backends)

    def prepared(self, config: ServiceConfig) -> Callable[[], None]:
        """Make all of `config` that can fail, except listeners; return a function that applies it and cannot fail.

        Raises `ConfigError`, and has changed nothing then.
        """
        for mistake in carrier_without_tls(self._process.config.carrier, config):
            raise mistake
        policies = changed_policies(self.config, config, self.policies, self._process.reactor.seconds)
        changes = self.outbound.prepared(config), self.tls.prepared(config)

        def apply() -> None:
            self.config = config
            for change in changes:
                change()
            self._use_tls()
            use_proxy_headers(self.served.service, config, self._process.reactor)
            self.static.apply(config.backends)
            self.clients.apply(config)
            self.pool.use_default_port(config.backend_port)
            self.served.apply(config)
            self.timeouts.apply(config)
            self.served.service.chooses_by_client = config.affinity is not None
            self._limit_each(config.each.max_connections)
            self.agents.accepts = accepted_agents(config)
            self.is_leaving = False
            if policies is not None:
                self.policies = policies
                self.publisher(self.pool.replace_policy(policies.whole, self._process.reactor.seconds()))

        return apply

    @property
    def compared(self) -> ComparedPolicies | None:
        """Its policies, if it has a shadow."""
        config, shadow = self.config, self.policies.shadow
        if shadow is None or config.shadow is None:
            return None
        return ComparedPolicies(config.name, config.policy, config.shadow, shadow)

    def _limit_each(self, max_connections: int | None) -> None:
        if max_connections != self._max_connections_each:
            self._max_connections_each = max_connections
            self.publisher(self.pool.limit_each(max_connections, self._process.reactor.seconds()))

    @property
    def is_leaving(self) -> bool:
        """Whether the service is no longer configured, and goes once its last session has ended."""
        return self.agents.is_leaving

    @is_leaving.setter
    def is_leaving(self, leaving: bool) -> None:
        self.agents.is_leaving = self.served.service.is_leaving = leaving

    def has(self, key: Address) -> bool:
        """Whether it has that back-end, not only sessions that are left on it."""
        row = self.pool.get(*key)
        return row is not None and row.state is not State.DEPARTED and not self.is_leaving

    def takes(self, key: Address) -> bool:
        """Whether it has that back-end, or its agent may register."""
        return self.has(key) or (not self.is_leaving and self.agents.takes(*key))

    @property
    def is_busy(self) -> bool:
        """Whether it has sessions, or may still get some."""
        return self.served.service.sessions > 0 or self.listeners.is_closing

    def release(self) -> None:
        """Release everything, once there is no session left, or none was begun."""
        for part in self.parts:
            if part.parent is None:
                part.stopService()
            else:
                part.disownServiceParent()
        self._process.monitor.remove(self.agents)
        if self._process.choices is not None:
            self._process.choices.remove(self.pool)


def accepted_agents(config: ServiceConfig) -> AgentFilter:
    """Which agents the service of a configuration accepts."""
    return AgentFilter(config.service_port, config.allow, config.takes_agents)
