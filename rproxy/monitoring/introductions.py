"""Probes of registrations that nothing confirms yet: anybody can send these, so their probes are few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.pool.backend import Backend, Registration
from rproxy.pool.limits import RateLimit

TICK_S: Final = 0.02
"""The finest time that is worth a timer: above one probe in this time, as many go at once."""


class Introductions:
    """Calls `probe` for every registration added, at most `rate` a second, in their order.

    One waits for each back-end, the newest; a table of bounded size makes the queue so.
    """

    def __init__(self, clock: IReactorTime, rate: float, probe: Callable[[Backend, Registration], None]) -> None:
        self._clock = clock
        self._probe = probe
        self._limit = RateLimit(rate, max(1, round(rate * TICK_S)))
        self._waiting: dict[Backend, Registration] = {}
        self._call: IDelayedCall | None = None

    def add(self, backend: Backend, registration: Registration) -> None:
        self._waiting[backend] = registration
        if self._call is None:
            self._proceed()

    def drop(self, backend: Backend) -> None:
        self._waiting.pop(backend, None)

    def stop(self) -> None:
        self._waiting.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _proceed(self) -> None:
        self._call = None
        now = self._clock.seconds()
        while self._waiting and self._limit.admit(now):
            backend = next(iter(self._waiting))
            self._probe(backend, self._waiting.pop(backend))
        if self._waiting:
            wait_s = self._limit.wait_s(now)
            self._call = self._clock.callLater(wait_s if self._limit.burst == 1 else max(wait_s, TICK_S), self._proceed)
