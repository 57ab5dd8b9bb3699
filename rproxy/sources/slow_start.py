"""Slow start: the timer by which the shares of back-ends that came up grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.events import Administered, Events, Observers, Transitioned

RETRY_S: Final = 1.0
"""Until the next `tick` after one that raised."""


class Ramping(Protocol):
    """The part of the pool that slow start uses."""

    @property
    def tick_due(self) -> float | None:
        """When `tick` is to be called next; None for never."""

    def tick(self, now: float) -> Events:
        """Raise the share of every such back-end to its value at `now`."""


class SlowStart:
    """Calls `pool.tick` whenever it is due. There is one timer, and none while no back-end starts slowly."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, pool: Ramping, publish: Callable[[Events], None] = lambda events: None
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._publish = publish
        self._timer: IDelayedCall | None = None
        self._timer_due: float | None = None

    def observers(self) -> Observers:
        """The events that start and stop the timer."""
        return {Transitioned: self.changed, Administered: self.changed}

    def changed(self, event: Transitioned | Administered) -> None:
        """A back-end's state has changed, or its override."""
        self._await(self._pool.tick_due)

    def stop(self) -> None:
        """Cancel the timer. May come twice."""
        self._await(None)

    def _await(self, due: float | None) -> None:
        if due == self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_due = due
        if due is not None:
            self._timer = self._clock.callLater(max(due - self._clock.seconds(), 0.0), self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_due = None
        now = self._clock.seconds()
        try:
            self._publish(self._pool.tick(now))
        except Exception:
            self.log.failure("slow start")
            self._await(now + RETRY_S)
        else:
            self._await(self._pool.tick_due)
