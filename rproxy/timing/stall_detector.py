"""Detects stalls: times in which this process ran no timer, being blocked, stopped, or on a suspended host."""

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

INTERVAL_S: Final = 0.25
"""Between checks."""
STALL_MIN_S: Final = 0.25
"""A check that is later than this shows a stall."""
STALLS_MAX: Final = 64
"""Stalls remembered; the oldest is dropped."""
LOG_EVERY_S: Final = 60.0
"""At most one line in this time: a process short of CPU time stalls repeatedly."""


class StallDetector:
    """Checks every `INTERVAL_S` seconds how late its own timer is. `clock` must be monotonic."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._checked_at = clock.seconds()
        self._stalls: deque[tuple[float, float]] = deque(maxlen=STALLS_MAX)
        """When each ended, and its length in seconds."""
        self._throttle = Throttle(clock, RateLimit.once_in(LOG_EVERY_S))
        self._unlogged_s = 0.0
        """Seconds of stalls not logged yet."""
        self._loop = LoopingCall(self._check)
        self._loop.clock = clock

    def start(self) -> None:
        """Begin to check. The time until now, or since a `stop`, is no stall."""
        self._checked_at = self._clock.seconds()
        keep_looping(self._loop, INTERVAL_S, now=False, failed=self._failed)

    def stop(self) -> None:
        """Cancel the timers. May be called twice, and before `start`."""
        self._throttle.stop()
        if self._loop.running:
            self._loop.stop()

    def lasted_s(self, since: float) -> float:
        """Seconds since `since`, a time of the clock, without stalls.

        After a stall other timers may run before the check that notices it, so a late check is made here.
        """
        if self._loop.running and self._late_s() > STALL_MIN_S:
            self._check()
        lasted_s = self._clock.seconds() - since
        if self._stalls and self._stalls[-1][0] > since:
            for ended_at, stall_s in reversed(self._stalls):
                if ended_at <= since:
                    break
                lasted_s -= min(stall_s, ended_at - since)
        return lasted_s

    def _late_s(self) -> float:
        """How late the next check is."""
        return self._clock.seconds() - self._checked_at - INTERVAL_S

    def _check(self) -> None:
        stall_s = self._late_s()
        self._checked_at = self._clock.seconds()
        if stall_s > STALL_MIN_S:
            self._stalls.append((self._checked_at, stall_s))
            self._unlogged_s += stall_s
            self._throttle.say(None, self._log)

    def _log(self, times: int) -> None:
        stall_s, self._unlogged_s = self._unlogged_s, 0.0
        if times == 1:
            self.log.warn("this process was away for {away_s:.1f} s; probes have so much longer", away_s=stall_s)
        else:
            self.log.warn(
                "this process was away {times} times, for {away_s:.1f} s in all, since the last line; probes have so "
                "much longer",
                times=times,
                away_s=stall_s,
            )

    def _failed(self, failure: Failure) -> None:
        self.log.failure("the stall detector", failure)
