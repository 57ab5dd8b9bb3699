"""Notices that this process was away: its reactor blocked, itself stopped, or its host suspended."""

from __future__ import annotations

from collections import deque
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.monitoring.loops import keep_looping

BEAT_S: Final = 0.25
LATE_S: Final = 0.25
"""A beat that comes later than this was kept from coming."""
ABSENCES_MAX: Final = 64
"""Times away that are remembered."""


class Pulse:
    """Beats on `clock`, which must be monotonic."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._beaten_at = clock.seconds()
        self._absences: deque[tuple[float, float]] = deque(maxlen=ABSENCES_MAX)
        """When each was over, and how many seconds it had taken."""
        self._loop = LoopingCall(self._beat)
        self._loop.clock = clock

    @property
    def back_at(self) -> float:
        """When the last time away was over. After it, other timers may run before the beat: it is not waited for."""
        if self._loop.running and self._away_s() > LATE_S:
            self._beat()
        return self._absences[-1][0] if self._absences else float("-inf")

    def lasted_s(self, since: float) -> float:
        """How long it is since then, times away left out."""
        lasted_s = self._clock.seconds() - since
        if self.back_at > since:
            for back_at, away_s in reversed(self._absences):
                if back_at <= since:
                    break
                lasted_s -= min(away_s, back_at - since)
        return lasted_s

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
            self._absences.append((self._beaten_at, away_s))
            self.log.warn("this process was away for {away_s:.1f} s; no probe of that time is held lost", away_s=away_s)

    def _failed(self, failure: Failure) -> None:
        self.log.failure("the pulse", failure)
