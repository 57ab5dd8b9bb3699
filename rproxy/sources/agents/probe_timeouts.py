"""The timeouts of all probes, with one timer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.probes import Probe

_TOLERANCE_S: Final = 1e-9


class ProbeTimeouts:
    """Calls `expired` for every probe added that has not been ended `timeout_s` seconds after it was sent.

    `lasted_s` returns the seconds since a moment, without those in which this process was stalled: a stall loses no
    probe, and several stalls in a row keep none open for ever. All probes have the same timeout, so they expire in
    the order in which they were added. There is one timer, and nearly all probes have ended when it fires.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, timeout_s: float, lasted_s: Callable[[float], float]) -> None:
        self._clock = clock
        self._lasted_s = lasted_s
        self._timeout_s = timeout_s
        self._open: OrderedDict[int, tuple[Probe, Callable[[Probe], None]]] = OrderedDict()
        self._ended: set[int] = set()
        """Tokens of the probes in `_open` that have ended."""
        self._timer: IDelayedCall | None = None
        self.end: Callable[[int], None] = self._ended.add
        """Called with the token of a probe that was added, when it is answered or its back-end is no longer probed."""

    def add(self, probe: Probe, expired: Callable[[Probe], None]) -> None:
        """Call `expired` with the probe once its timeout has passed."""
        self._open[probe.request.token] = (probe, expired)
        if self._timer is None:
            self._timer = self._clock.callLater(self._timeout_s, self._expire)

    def stop(self) -> None:
        """Cancel the timer and forget all probes."""
        self._open.clear()
        self._ended.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        while self._open:
            token, (probe, expired) = next(iter(self._open.items()))
            if token in self._ended:
                self._ended.remove(token)
                del self._open[token]
                continue
            left_s = self._timeout_s - self._lasted_s(probe.sent_at)
            if left_s > _TOLERANCE_S:
                self._timer = self._clock.callLater(left_s, self._expire)
                return
            del self._open[token]
            try:
                expired(probe)
            except Exception:
                self.log.failure("a probe's timeout")
