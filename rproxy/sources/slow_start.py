"""Slow start: the timer by which the shares of back-ends that came up grow."""

from __future__ import annotations

from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.pool.events import Observers, Transitioned
from rproxy.timing.loops import keep_looping

EVERY_S: Final = 1.0


class Ramping(Protocol):
    """The part of the pool that slow start needs."""

    @property
    def is_ramping(self) -> bool:
        """Whether slow start limits any back-end."""

    def tick(self, now: float) -> None:
        """Give every such back-end the share that it may have by now."""


class SlowStart:
    """Calls `pool.tick` every second while any back-end of the pool starts slowly."""

    log = Logger()

    def __init__(self, clock: IReactorTime, pool: Ramping) -> None:
        self._clock = clock
        self._pool = pool
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock

    def observers(self) -> Observers:
        """The events by which slow start begins and ends."""
        return {Transitioned: self.transitioned}

    @property
    def is_running(self) -> bool:
        """Whether the timer is set."""
        return self._loop.running

    def transitioned(self, event: Transitioned) -> None:
        """A back-end's state has changed."""
        if not self._pool.is_ramping:
            self.stop()
        elif not self._loop.running:
            keep_looping(self._loop, EVERY_S, now=False, failed=self._failed)

    def stop(self) -> None:
        """Cancel the timer, until another back-end comes up."""
        if self._loop.running:
            self._loop.stop()

    def _tick(self) -> None:
        self._pool.tick(self._clock.seconds())
        if not self._pool.is_ramping:
            self.stop()

    def _failed(self, failure: Failure) -> None:
        self.log.failure("slow start", failure)
