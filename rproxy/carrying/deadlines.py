"""Timeouts for very many sessions from one reactor timer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

TICK_S: Final = 0.1


class Deadlines:
    """Calls back once a deadline has passed, at most one tick late. Arming and disarming cost O(1) and no timer."""

    def __init__(self, clock: IReactorTime, tick_s: float = TICK_S) -> None:
        self._clock = clock
        self._tick_s = tick_s
        self._buckets: dict[int, dict[Hashable, Callable[[], None]]] = {}
        self._ticks: dict[Hashable, int] = {}
        self._done = 0
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._ticks)

    def arm(self, owner: Hashable, delay_s: float, call: Callable[[], None]) -> None:
        """Call `call` in `delay_s` seconds. An owner has one deadline: a later `arm` replaces it."""
        self.disarm(owner)
        now = self._clock.seconds()
        tick = int((now + delay_s) / self._tick_s) + 1
        self._ticks[owner] = tick
        self._buckets.setdefault(tick, {})[owner] = call
        if self._timer is None:
            self._done = int(now / self._tick_s)
            self._timer = self._clock.callLater(self._tick_s, self._advance)

    def disarm(self, owner: Hashable) -> None:
        """Drop the owner's deadline, if it has one."""
        tick = self._ticks.pop(owner, None)
        if tick is not None:
            self._buckets[tick].pop(owner)

    def _advance(self) -> None:
        self._timer = None
        until = int(self._clock.seconds() / self._tick_s)
        calls: list[Callable[[], None]] = []
        for tick in range(self._done + 1, until + 1):
            for owner, call in self._buckets.pop(tick, {}).items():
                del self._ticks[owner]
                calls.append(call)
        self._done = until
        if self._ticks:
            self._timer = self._clock.callLater(self._tick_s, self._advance)
        else:
            self._buckets.clear()
        for call in calls:
            call()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()
        self._ticks.clear()
