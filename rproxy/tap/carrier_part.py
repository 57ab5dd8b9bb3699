"""The carrier as a part of the proxy: carries the sessions of all services, and ends them when the proxy stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rproxy.carriers.carrier import Carrier
from rproxy.pool.backend import Backend
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.loop_detector import LoopDetector
from rproxy.sessions.sweep import connected
from rproxy.tap.parts import Part


class CarrierPart(Part):
    """Detects loops while `capacity` is full, and aborts the carrier on stopping. Opens nothing itself."""

    def __init__(
        self, reactor: Any, carrier: Carrier, capacity: Capacity, exclude_loop: Callable[[Backend], None]
    ) -> None:
        """`exclude_loop` is called with a back-end that leads back to this proxy."""
        self._carrier = carrier
        self._loop_detector = LoopDetector(reactor, connected(carrier.slices), capacity, exclude_loop)

    def stopService(self) -> None:
        super().stopService()
        self._loop_detector.stop()
        self._carrier.abort()
