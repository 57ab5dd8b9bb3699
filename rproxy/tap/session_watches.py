"""The sessions of a service as a part of the proxy: what ends those that have stalled, and, at last, all of them."""

from __future__ import annotations

from typing import Any

from rproxy.carriers.carrier import Carrier
from rproxy.config.model import ServiceConfig
from rproxy.net.own_listeners import OwnListeners
from rproxy.observe.publisher import Publisher
from rproxy.pool.backend import Backend
from rproxy.pool.events import EligibilityChanged, PanicChanged, Transitioned
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.dead_peers import DeadPeers
from rproxy.sessions.down_timeout import DownTimeout
from rproxy.sessions.idle_timeout import IdleTimeout
from rproxy.sessions.loop_detector import LoopDetector
from rproxy.sessions.sweep import Slices, of_service
from rproxy.sources.agents.monitor import Monitor
from rproxy.tap.parts import Part
from rproxy.tap.service import ServedPool


class SessionWatches(Part):
    """Watches the sessions of a service while it runs. Stopping it ends them."""

    def __init__(
        self,
        reactor: Any,
        config: ServiceConfig,
        served: ServedPool,
        carrier: Carrier,
        capacity: Capacity,
        monitor: Monitor,
        own: OwnListeners,
        publisher: Publisher,
    ) -> None:
        self._served = served
        self._carrier = carrier
        self._monitor = monitor
        self._own = own
        slices = of_service(carrier.slices, served.service)
        self._periodic = _periodic(reactor, config, slices)
        self._loop_detector = LoopDetector(reactor, slices, capacity, self._exclude_loop)
        self._down_timeout = DownTimeout(reactor, slices)
        if config.end_on_down:
            down = self._down_timeout
            publisher.subscribe({Transitioned: down.transitioned, PanicChanged: down.panic_changed})
        publisher.subscribe({EligibilityChanged: served.service.wait_queue.eligibility_changed})

    def _exclude_loop(self, backend: Backend) -> None:
        """A back-end leads back to this proxy by way of another one."""
        self._own.bar((backend.address, backend.port))
        self._monitor.exclude(backend)

    def startService(self) -> None:
        super().startService()
        for watch in self._periodic:
            watch.start()
        self._served.service.start()

    def stop_accepting(self) -> None:
        """No client waits for a back-end any longer."""
        self._served.service.stop_waiting()

    def stopService(self) -> None:
        super().stopService()
        for watch in self._periodic:
            watch.stop()
        self._down_timeout.stop()
        self._loop_detector.stop()
        self._carrier.abort()
        self._served.stop()


def _periodic(reactor: Any, config: ServiceConfig, slices: Slices) -> list[IdleTimeout | DeadPeers]:
    watches: list[IdleTimeout | DeadPeers] = [DeadPeers(reactor, slices)]
    idle_s, half_closed_s = config.idle_timeout_s, config.half_close_timeout_s
    if idle_s:
        watches.append(IdleTimeout(reactor, slices, idle_s, half_closed=False))
    if half_closed_s:
        watches.append(IdleTimeout(reactor, slices, half_closed_s, half_closed=True, reader_s=idle_s))
    return watches
