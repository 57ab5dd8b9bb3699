"""The carrier as a part of the proxy: carries the sessions of all services, and ends them when the proxy stops."""

from __future__ import annotations

from typing import Any

from rproxy.carriers.carrier import Carrier
from rproxy.net.own_listeners import OwnListeners
from rproxy.pool.backend import Backend
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.loop_detector import LoopDetector
from rproxy.sources.source import Source
from rproxy.tap.parts import Part


class CarrierPart(Part):
    """Detects loops while `capacity` is full, and aborts the carrier on stopping. Opens nothing itself."""

    def __init__(self, reactor: Any, carrier: Carrier, capacity: Capacity, source: Source, own: OwnListeners) -> None:
        self._carrier = carrier
        self._source = source
        self._own = own
        self._loop_detector = LoopDetector(reactor, carrier.slices, capacity, self._exclude_loop)

    def _exclude_loop(self, backend: Backend) -> None:
        """A back-end leads back to this proxy by way of another one."""
        self._own.bar((backend.address, backend.port))
        self._source.exclude(backend)

    def stopService(self) -> None:
        super().stopService()
        self._loop_detector.stop()
        self._carrier.abort()
