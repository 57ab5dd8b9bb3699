"""Limits the rate at which unconfirmed registrations are probed: anyone can send these."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.pool.backend import Backend, Registration
from rproxy.pool.states import State
from rproxy.timing.rate_limit import RateLimit

TICK_S: Final = 0.02
"""The shortest timer worth setting: at more than one probe in this time, several are sent together."""
RESTORED_PER_S: Final = 2000.0
"""Probes of restored rows a second. Other hosts cannot cause these; the limit only keeps bursts short."""


class HasCandidates(Protocol):
    """The part of the pool that has the candidates."""

    @property
    def has_candidates(self) -> bool:
        """Whether any registration waits."""

    def next_candidate(self, now: float) -> tuple[Backend, Registration] | None:
        """Remove and return the one to probe now; None if there is none."""


class FirstProbes:
    """Calls `probe` for every candidate of `pool`, at most `rate` a second.

    Restored rows do not count toward the rate, and go first.
    """

    def __init__(
        self,
        clock: IReactorTime,
        rate: float,
        pool: HasCandidates,
        probe: Callable[[Backend, Registration], None],
    ) -> None:
        self._clock = clock
        self._probe = probe
        self._pool = pool
        self._limit = RateLimit(rate, max(1, round(rate * TICK_S)))
        self._restored_limit = RateLimit(RESTORED_PER_S, round(RESTORED_PER_S * TICK_S))
        self._restored: OrderedDict[tuple[Backend, Registration], None] = OrderedDict()
        self._call: IDelayedCall | None = None

    def proceed(self) -> None:
        """Called when there may be a new candidate."""
        if self._call is None:
            self._take()

    def add_restored(self, backend: Backend, registration: Registration) -> None:
        """Probe the agent of a restored row soon."""
        self._restored[backend, registration] = None
        self.proceed()

    def is_restoring(self, backend: Backend, registration: Registration) -> bool:
        """Whether a restored row still waits for its probe."""
        return (backend, registration) in self._restored

    def stop(self) -> None:
        """Cancel the timer, and forget restored rows."""
        self._restored.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _take(self) -> None:
        self._call = None
        now = self._clock.seconds()
        while self._restored and self._restored_limit.admit(now):
            (backend, registration), _ = self._restored.popitem(last=False)
            if backend.state is not State.FORGOTTEN:
                self._probe(backend, registration)
        while not self._limit.wait_s(now) and (found := self._pool.next_candidate(now)):
            self._limit.admit(now)
            self._probe(*found)
        if self._restored:
            self._call = self._clock.callLater(TICK_S, self._take)
        elif self._pool.has_candidates:
            wait_s = self._limit.wait_s(now)
            self._call = self._clock.callLater(
                wait_s if wait_s and self._limit.burst == 1 else max(wait_s, TICK_S), self._take
            )
