"""Probes of registrations that nothing confirms yet: anybody can send these, so their probes are few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.pool.backend import Backend, Registration
from rproxy.pool.limits import RateLimit

TICK_S: Final = 0.02
"""The finest time that is worth a timer: above one probe in this time, as many go at once."""
KNOWN_S: Final = 2000.0
"""Probes a second of what this proxy has known before: no stranger brings them about, so their number has its limit
only where nothing else would have its turn."""


class Introductions:
    """Calls `probe` for every registration added, at most `rate` a second, in their order.

    One waits for each back-end, the newest; a table of bounded size makes the queue so. Those `add_known` do not count
    toward the rate, and go first.
    """

    def __init__(self, clock: IReactorTime, rate: float, probe: Callable[[Backend, Registration], None]) -> None:
        self._clock = clock
        self._probe = probe
        self._limit = RateLimit(rate, max(1, round(rate * TICK_S)))
        self._known_limit = RateLimit(KNOWN_S, round(KNOWN_S * TICK_S))
        self._waiting: dict[Backend, Registration] = {}
        self._known: dict[Backend, Registration] = {}
        self._call: IDelayedCall | None = None

    def add(self, backend: Backend, registration: Registration) -> None:
        self._waiting[backend] = registration
        if self._call is None:
            self._proceed()

    def add_known(self, backend: Backend, registration: Registration) -> None:
        self._known[backend] = registration
        if self._call is None:
            self._proceed()

    def drop(self, backend: Backend) -> None:
        self._waiting.pop(backend, None)
        self._known.pop(backend, None)

    def stop(self) -> None:
        self._waiting.clear()
        self._known.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _proceed(self) -> None:
        self._call = None
        waits_s = [
            self._take(queue, limit)
            for queue, limit in [(self._known, self._known_limit), (self._waiting, self._limit)]
            if queue
        ]
        if self._known or self._waiting:
            self._call = self._clock.callLater(min(wait_s for wait_s in waits_s if wait_s), self._proceed)

    def _take(self, queue: dict[Backend, Registration], limit: RateLimit) -> float:
        """Probe as many as may be now. Seconds until the next one, 0 if none is left."""
        now = self._clock.seconds()
        while queue and limit.admit(now):
            backend = next(iter(queue))
            self._probe(backend, queue.pop(backend))
        if not queue:
            return 0.0
        wait_s = limit.wait_s(now)
        return wait_s if limit.burst == 1 else max(wait_s, TICK_S)
