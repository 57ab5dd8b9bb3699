"""When registrations that nothing confirms yet are probed: anybody can send these, so their probes are few."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.pool.backend import Backend, Registration
from rproxy.pool.states import State
from rproxy.pool.unconfirmed import Unconfirmed
from rproxy.timing.rate_limit import RateLimit

TICK_S: Final = 0.02
"""The finest time that is worth a timer: above one probe in this time, as many go at once."""
KNOWN_S: Final = 2000.0
"""Probes a second of what this proxy has known before: no stranger brings them about, so their number has its limit
only where nothing else would have its turn.
"""


class FirstProbes:
    """Calls `probe` for every registration that waits in `first_probes`, at most `rate` a second, in its order.

    Those `add_known` do not count toward the rate, and go first.
    """

    def __init__(
        self,
        clock: IReactorTime,
        rate: float,
        unconfirmed: Unconfirmed,
        probe: Callable[[Backend, Registration], None],
    ) -> None:
        self._clock = clock
        self._probe = probe
        self._unconfirmed = unconfirmed
        self._limit = RateLimit(rate, max(1, round(rate * TICK_S)))
        self._known_limit = RateLimit(KNOWN_S, round(KNOWN_S * TICK_S))
        self._known: OrderedDict[tuple[Backend, Registration], None] = OrderedDict()
        self._call: IDelayedCall | None = None

    def proceed(self) -> None:
        """Something has come to wait."""
        if self._call is None:
            self._take()

    def add_known(self, backend: Backend, registration: Registration) -> None:
        self._known[backend, registration] = None
        self.proceed()

    def is_due(self, backend: Backend, registration: Registration) -> bool:
        """Whether one that is known waits for its turn."""
        return (backend, registration) in self._known

    def stop(self) -> None:
        self._known.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _take(self) -> None:
        self._call = None
        now = self._clock.seconds()
        while self._known and self._known_limit.admit(now):
            (backend, registration), _ = self._known.popitem(last=False)
            if backend.state is not State.FORGOTTEN:
                self._probe(backend, registration)
        while self._unconfirmed and not self._limit.wait_s(now) and (found := self._unconfirmed.next(now)):
            self._limit.admit(now)
            self._probe(*found)
        if self._known:
            self._call = self._clock.callLater(TICK_S, self._take)
        elif self._unconfirmed:
            wait_s = self._limit.wait_s(now)
            self._call = self._clock.callLater(
                wait_s if wait_s and self._limit.burst == 1 else max(wait_s, TICK_S), self._take
            )
