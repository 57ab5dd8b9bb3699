"""Notices that this process was away: its reactor blocked, itself stopped, or its host suspended."""

from __future__ import annotations

from collections import deque
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.timing.loops import keep_looping
from rproxy.timing.rate_limit import RateLimit
from rproxy.timing.throttle import Throttle

BEAT_S: Final = 0.25
LATE_S: Final = 0.25
"""A beat that comes later than this was kept from coming."""
LOG_EVERY_S: Final = 60.0
"""At most one line in this time: a process that has too little of a processor is away again and again."""
ABSENCES_MAX: Final = 64
"""Times away that are remembered."""


class StallDetector:
    """Beats on `clock`, which must be monotonic."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._beaten_at = clock.seconds()
        self._absences: deque[tuple[float, float]] = deque(maxlen=ABSENCES_MAX)
        """When each was over, and how many seconds it had taken."""
        self._throttle = Throttle(clock, RateLimit.once_in(LOG_EVERY_S))
        self._away_unsaid_s = 0.0
        self._loop = LoopingCall(self._beat)
        self._loop.clock = clock

    def lasted_s(self, since: float) -> float:
        """How long it is since then, times away left out. Other timers may run before the beat, so that is not waited
        for.
        """
        if self._loop.running and self._away_s() > LATE_S:
            self._beat()
        lasted_s = self._clock.seconds() - since
        if self._absences and self._absences[-1][0] > since:
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
        self._throttle.stop()
        if self._loop.running:
            self._loop.stop()

    def _beat(self) -> None:
        away_s = self._away_s()
        self._beaten_at = self._clock.seconds()
        if away_s > LATE_S:
            self._absences.append((self._beaten_at, away_s))
            self._away_unsaid_s += away_s
            self._throttle.say("away", self._tell)

    def _tell(self, times: int) -> None:
        away_s, self._away_unsaid_s = self._away_unsaid_s, 0.0
        if times == 1:
            self.log.warn("this process was away for {away_s:.1f} s; probes have so much longer", away_s=away_s)
        else:
            self.log.warn(
                "this process was away {times} times, for {away_s:.1f} s in all, since the last line; probes have so "
                "much longer",
                times=times,
                away_s=away_s,
            )

    def _failed(self, failure: Failure) -> None:
        self.log.failure("the pulse", failure)
