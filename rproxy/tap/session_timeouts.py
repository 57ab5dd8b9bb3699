"""Ends the stalled sessions of one service."""

from __future__ import annotations

from typing import Any

from rproxy.carriers.carrier import Carrier
from rproxy.config.model import ServiceConfig
from rproxy.observe.publisher import Publisher
from rproxy.observe.service_log import logger_of
from rproxy.pool.events import EligibilityChanged, PanicChanged, Transitioned
from rproxy.sessions.dead_peers import DeadPeers
from rproxy.sessions.down_timeout import DownTimeout
from rproxy.sessions.idle_timeout import HalfCloseTimeout, IdleTimeout
from rproxy.sessions.sweep import of_service
from rproxy.tap.parts import Part
from rproxy.tap.service import ServedPool


class SessionTimeouts(Part):
    """The timers of one service's sessions and of its waiting clients. Stopped after the carrier has ended all."""

    def __init__(
        self, reactor: Any, config: ServiceConfig, served: ServedPool, carrier: Carrier, publisher: Publisher
    ) -> None:
        """`publisher` publishes the events of the service's pool."""
        self._reactor = reactor
        self._config = config
        self._served = served
        self._slices = of_service(carrier.slices, served.service)
        self._dead_peers = DeadPeers(reactor, self._slices)
        self._idle = self._idle_timeouts(replaces=False)
        self._down_timeout = DownTimeout(reactor, self._slices)
        for timeout in (self._dead_peers, self._down_timeout):
            timeout.log = logger_of(config.name, timeout.log)
        publisher.subscribe(
            {
                Transitioned: self._transitioned,
                PanicChanged: self._down_timeout.panic_changed,
                EligibilityChanged: served.service.wait_queue.eligibility_changed,
            }
        )

    def _idle_timeouts(self, *, replaces: bool) -> list[IdleTimeout]:
        config = self._config
        idle_s, half_closed_s = config.idle_timeout_s, config.half_close_timeout_s
        timeouts: list[IdleTimeout] = []
        if idle_s:
            timeouts.append(IdleTimeout(self._reactor, self._slices, idle_s, replaces=replaces))
        if half_closed_s:
            timeouts.append(HalfCloseTimeout(self._reactor, self._slices, half_closed_s, idle_s, replaces=replaces))
        for timeout in timeouts:
            timeout.log = logger_of(config.name, timeout.log)
        return timeouts

    @property
    def _periodic(self) -> list[DeadPeers | IdleTimeout]:
        return [self._dead_peers, *self._idle]

    def _transitioned(self, event: Transitioned) -> None:
        if self._config.end_on_down:
            self._down_timeout.transitioned(event)

    def apply(self, config: ServiceConfig) -> None:
        """Use the timeouts of this configuration. Those that have changed count from now on."""
        before, self._config = self._config, config
        if not config.end_on_down:
            self._down_timeout.stop()
        if _idle_limits(before) == _idle_limits(config):
            return
        for timeout in self._idle:
            timeout.stop()
        self._idle = self._idle_timeouts(replaces=True)
        if self.running:
            for timeout in self._idle:
                timeout.start()

    def startService(self) -> None:
        super().startService()
        for timeout in self._periodic:
            timeout.start()
        self._served.service.start()

    def stop_accepting(self) -> None:
        """End the waiting of clients for a back-end."""
        self._served.service.stop_waiting()

    def stopService(self) -> None:
        super().stopService()
        for timeout in self._periodic:
            timeout.stop()
        self._down_timeout.stop()
        self._served.stop()


def _idle_limits(config: ServiceConfig) -> tuple[float, float]:
    return config.idle_timeout_s, config.half_close_timeout_s
