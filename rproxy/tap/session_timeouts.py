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
from rproxy.sessions.idle_timeout import IdleTimeout
from rproxy.sessions.sweep import Slices, of_service
from rproxy.tap.parts import Part
from rproxy.tap.service import ServedPool


class SessionTimeouts(Part):
    """The timers of one service's sessions and of its waiting clients. Stopped after the carrier has ended all."""

    def __init__(
        self, reactor: Any, config: ServiceConfig, served: ServedPool, carrier: Carrier, publisher: Publisher
    ) -> None:
        """`publisher` publishes the events of the service's pool."""
        self._served = served
        slices = of_service(carrier.slices, served.service)
        self._periodic = _periodic(reactor, config, slices)
        self._down_timeout = DownTimeout(reactor, slices)
        for timeout in (*self._periodic, self._down_timeout):
            timeout.log = logger_of(config.name, timeout.log)
        if config.end_on_down:
            down = self._down_timeout
            publisher.subscribe({Transitioned: down.transitioned, PanicChanged: down.panic_changed})
        publisher.subscribe({EligibilityChanged: served.service.wait_queue.eligibility_changed})

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


def _periodic(reactor: Any, config: ServiceConfig, slices: Slices) -> list[IdleTimeout | DeadPeers]:
    timeouts: list[IdleTimeout | DeadPeers] = [DeadPeers(reactor, slices)]
    idle_s, half_closed_s = config.idle_timeout_s, config.half_close_timeout_s
    if idle_s:
        timeouts.append(IdleTimeout(reactor, slices, idle_s, half_closed=False))
    if half_closed_s:
        timeouts.append(IdleTimeout(reactor, slices, half_closed_s, half_closed=True, reader_s=idle_s))
    return timeouts
