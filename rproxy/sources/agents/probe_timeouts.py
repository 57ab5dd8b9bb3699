"""When probes end that are not answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.events import Probe

_TOLERANCE_S: Final = 1e-9


class ProbeTimeouts:
    """Calls `expired` for every probe added that has not been ended `timeout_s` after it was sent.

    `lasted_s` tells how long this process has been there to see an answer since a moment: times away do not count, so
    that no probe is lost by one, and none is kept open for ever by one after the other. All wait equally long, so the
    first that was added is the next that ends: one timer serves them all, and nearly all are ended before it looks at
    them.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, timeout_s: float, lasted_s: Callable[[float], float]) -> None:
        self._clock = clock
        self._lasted_s = lasted_s
        self._timeout_s = timeout_s
        self._open: dict[int, tuple[Probe, Callable[[Probe], None]]] = {}
        self._timer: IDelayedCall | None = None

    def add(self, probe: Probe, expired: Callable[[Probe], None]) -> None:
        self._open[probe.request.token] = (probe, expired)
        if self._timer is None:
            self._timer = self._clock.callLater(self._timeout_s, self._look)

    def end(self, token: int) -> None:
        """It was answered, or is of no interest any more."""
        self._open.pop(token, None)

    def stop(self) -> None:
        self._open.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        while self._open:
            token, (probe, expired) = next(iter(self._open.items()))
            left_s = self._timeout_s - self._lasted_s(probe.sent_at)
            if left_s > _TOLERANCE_S:
                self._timer = self._clock.callLater(left_s, self._look)
                return
            del self._open[token]
            try:
                expired(probe)
            except Exception:
                self.log.failure("a probe's timeout")
