"""Timer wheel: many delayed calls from one reactor timer, at whole ticks.

Waking the process up costs more than a call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from math import ceil, floor
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

TICK_S: Final = 0.1
"""Fine enough for the timeouts of sessions."""
_TOLERANCE: Final = 1e-6
"""Fraction of a tick: a call that is due at a tick, but for rounding, does not wait for the next."""

_Bucket = dict[Hashable, Callable[[], None]]


class Wheel:
    """Makes calls at whole ticks of `tick_s` seconds: never early, and less than a tick late.

    Each call has an owner, which is how it is disarmed: a session, a back-end's prober, or, for one of several calls of
    the same object, a tuple. `arm` and `disarm` cost O(1), and `disarm` releases the call and its owner at once. There
    is one reactor timer, for the first tick at which something is due, and none while nothing is. `clock` must be
    monotonic.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, tick_s: float = TICK_S) -> None:
        self._clock = clock
        self._tick_s = tick_s
        self._buckets: dict[int, _Bucket] = {}
        """Calls by tick. An empty bucket stays until its tick, or until the timer comes while it is the first."""
        self._ticks: list[int] = []
        """A heap of the keys of `_buckets`."""
        self._bucket_of: dict[Hashable, _Bucket] = {}
        """By owner."""
        self._due: list[_Bucket] = []
        """Buckets whose calls are being made."""
        self._timer: IDelayedCall | None = None
        self._timer_tick = 0
        self._awaited: _Bucket | None = None
        """The bucket for which the timer was set; None once that has become empty, or without a timer."""

    def seconds(self) -> float:
        """The time of its clock."""
        return self._clock.seconds()

    def __len__(self) -> int:
        """The number of armed calls."""
        return len(self._bucket_of)

    def arm(self, owner: Hashable, delay_s: float, call: Callable[[], None]) -> float:
        """Call `call` once, `delay_s` seconds from now; returns the time of that on the clock.

        An owner has one call: a later `arm` replaces it. A call may arm and disarm anything; what it raises is logged.
        It is never made before `arm` returns, even where the delay is 0 or less.
        """
        if owner in self._bucket_of:
            self.disarm(owner)
        tick = ceil((self._clock.seconds() + delay_s) / self._tick_s - _TOLERANCE)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heappush(self._ticks, tick)
            self._await_first()
        self._bucket_of[owner] = bucket
        bucket[owner] = call
        return tick * self._tick_s

    def disarm(self, owner: Hashable) -> None:
        """Cancel the owner's call, if it has one."""
        bucket = self._bucket_of.pop(owner, None)
        if bucket is not None:
            del bucket[owner]
            if not bucket and bucket is self._awaited:
                self._wake_soon()

    def stop(self) -> None:
        """Drop all calls. May be called twice; `arm` works again afterwards."""
        for bucket in (*self._buckets.values(), *self._due):
            bucket.clear()
        self._buckets.clear()
        self._ticks.clear()
        self._bucket_of.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._awaited = None

    def _await_first(self) -> None:
        """Set the timer for the first tick, unless it comes earlier already."""
        first = self._ticks[0]
        if self._timer is not None:
            if self._timer_tick <= first:
                return
            self._timer.cancel()
        self._awaited, self._timer_tick = self._buckets[first], first
        self._timer = self._clock.callLater(max(first * self._tick_s - self._clock.seconds(), 0.0), self._turn)

    def _wake_soon(self) -> None:
        """The awaited bucket has become empty: reset the timer to the next tick, which then finds the first bucket.

        That costs less than a new reactor timer for each of many calls that are armed and disarmed one by one.
        """
        self._awaited = None
        now = self._clock.seconds()
        tick = floor(now / self._tick_s + _TOLERANCE) + 1
        if self._timer is not None and tick < self._timer_tick:
            self._timer_tick = tick
            self._timer.reset(max(tick * self._tick_s - now, 0.0))

    def _turn(self) -> None:
        self._timer = self._awaited = None
        now_tick = floor(self._clock.seconds() / self._tick_s + _TOLERANCE)
        ticks, buckets = self._ticks, self._buckets
        while ticks and (ticks[0] <= now_tick or not buckets[ticks[0]]):
            self._due.append(buckets.pop(heappop(ticks)))
        for bucket in self._due:
            for owner in list(bucket):
                call = bucket.pop(owner, None)
                if call is None:  # disarmed by a call of this turn
                    continue
                del self._bucket_of[owner]
                try:
                    call()
                except Exception:
                    self.log.failure("a timer's call failed")
        self._due.clear()
        if ticks:
            self._await_first()
