"""Timeouts for very many sessions from one reactor timer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

TICK_S: Final = 0.1
_HAIR: Final = 1e-6


class Deadlines:
    """Calls back once a deadline has passed, at most one tick late. Arming and disarming cost O(1) and no timer."""

    log = Logger()

    def __init__(self, clock: IReactorTime, tick_s: float = TICK_S) -> None:
        self._clock = clock
        self.seconds = clock.seconds
        self._tick_s = tick_s
        self._buckets: dict[int, dict[Hashable, Callable[[], None]]] = {}
        self._ticks: dict[Hashable, int] = {}
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._ticks)

    def arm(self, owner: Hashable, delay_s: float, call: Callable[[], None]) -> None:
        """Call `call` in `delay_s` seconds. An owner has one deadline: a later `arm` replaces it."""
        self.disarm(owner)
        now = self._clock.seconds()
        tick = self._tick(now + max(delay_s, 0)) + 1
        self._ticks[owner] = tick
        self._buckets.setdefault(tick, {})[owner] = call
        if self._timer is None:
            self._wait(now)

    def _tick(self, now: float) -> int:
        """The number of ticks up to `now`; one that rounding puts a hair ahead counts as come."""
        return int(now / self._tick_s + _HAIR)

    def _wait(self, now: float) -> None:
        next_tick_s = (self._tick(now) + 1) * self._tick_s
        self._timer = self._clock.callLater(max(next_tick_s - now, 0), self._advance)

    def disarm(self, owner: Hashable) -> None:
        """Drop the owner's deadline, if it has one."""
        tick = self._ticks.pop(owner, None)
        if tick is not None:
            self._buckets[tick].pop(owner)

    def _advance(self) -> None:
        self._timer = None
        until = self._tick(self._clock.seconds())
        for tick in sorted(tick for tick in self._buckets if tick <= until):
            bucket = self._buckets[tick]
            while bucket:
                owner = next(iter(bucket))
                self._ticks.pop(owner, None)
                self._call(bucket.pop(owner))
            self._buckets.pop(tick, None)
        if not self._ticks:
            self._buckets.clear()
        elif self._timer is None:
            self._wait(self._clock.seconds())

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            self.log.failure("a deadline's call failed")

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for bucket in self._buckets.values():
            bucket.clear()
        self._buckets.clear()
        self._ticks.clear()
