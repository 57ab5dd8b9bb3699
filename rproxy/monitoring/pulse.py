"""Notices that this process was away: its reactor blocked, itself stopped, or its host suspended."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.monitoring.loops import keep_looping

BEAT_S: Final = 0.25
LATE_S: Final = 0.25
"""A beat that comes later than this was kept from coming."""


class Pulse:
    """Beats on `clock`, which must be monotonic."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._beaten_at = clock.seconds()
        self._back_at = float("-inf")
        self._loop = LoopingCall(self._beat)
        self._loop.clock = clock

    @property
    def back_at(self) -> float:
        """When the last time away was over. After it, other timers may run before the beat: it is not waited for."""
        if self._loop.running and self._away_s() > LATE_S:
            self._beat()
        return self._back_at

    def _away_s(self) -> float:
        """How late the next beat is."""
        return self._clock.seconds() - self._beaten_at - BEAT_S

    def start(self) -> None:
        self._beaten_at = self._clock.seconds()
        keep_looping(self._loop, BEAT_S, now=False, failed=self._failed)

    def stop(self) -> None:
        if self._loop.running:
            self._loop.stop()

    def _beat(self) -> None:
        away_s = self._away_s()
        self._beaten_at = self._clock.seconds()
        if away_s > LATE_S:
            self._back_at = self._beaten_at
            self.log.warn("this process was away for {away_s:.1f} s; no probe of that time is held lost", away_s=away_s)

    def _failed(self, failure: Failure) -> None:
        self.log.failure("the pulse", failure)
