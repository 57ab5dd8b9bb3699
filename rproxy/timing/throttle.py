"""Limits the rate of log lines about what any host can repeat; the last line of each subject is written in any case."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.timing.rate_limit import RateLimit

WAITING_MAX: Final = 4096
"""Subjects with a line that waits; those beyond get none."""

Speak = Callable[[int], None]
"""Writes the line. Its argument: how many times `say` was called since the last line, this time included."""


@attrs.define
class _Waiting:
    speak: Speak
    times: int = 1


class Throttle:
    """Writes a line at once where the limits allow it; later, of those held back, the newest of each subject.

    `each` limits the lines about one subject, `in_all` those about all, and may be shared with other throttles. Where
    held-back lines are to be dropped, `RateLimit.once_in` is enough. There is one timer, and none while nothing waits.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, each: RateLimit, in_all: RateLimit | None = None) -> None:
        self._clock = clock
        self._each = each
        self._in_all = in_all
        self._waiting: dict[Hashable, _Waiting] = {}
        self._timer: IDelayedCall | None = None

    def say(self, subject: Hashable, speak: Speak) -> bool:
        """Call `speak` now, or later, instead of what waits for the same subject. False if neither."""
        waiting = self._waiting.get(subject)
        if waiting is not None:
            waiting.speak = speak
            waiting.times += 1
            return True
        wait_s = self._wait_s(subject)
        if not wait_s:
            self._speak(subject, _Waiting(speak))
            return True
        if len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting[subject] = _Waiting(speak)
        self._wake_in(wait_s)
        return True

    def is_quiet(self, subject: Hashable) -> bool:
        """Whether `say` would write at once, there having been no line for long enough, and none waiting."""
        return subject not in self._waiting and not self._wait_s(subject)

    def flush(self) -> None:
        """Write all lines that wait, regardless of the limits."""
        for subject in list(self._waiting):
            self._speak(subject, self._waiting.pop(subject))

    def stop(self) -> None:
        """Drop the lines that wait, and the timer. May come twice."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_s(self, subject: Hashable) -> float:
        now = self._clock.seconds()
        return max(self._each.wait_s(now, subject), self._in_all.wait_s(now) if self._in_all is not None else 0.0)

    def _speak(self, subject: Hashable, waiting: _Waiting) -> None:
        now = self._clock.seconds()
        self._each.admit(now, subject)
        if self._in_all is not None:
            self._in_all.admit(now)
        try:
            waiting.speak(waiting.times)
        except Exception:
            self.log.failure("a line for the log")

    def _wake_in(self, wait_s: float) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(wait_s, self._wake)
        elif self._clock.seconds() + wait_s < self._timer.getTime():
            self._timer.reset(wait_s)

    def _wake(self) -> None:
        self._timer = None
        waits_s = []
        for subject in list(self._waiting):
            wait_s = self._wait_s(subject)
            if wait_s:
                waits_s.append(wait_s)
            else:
                self._speak(subject, self._waiting.pop(subject))
        if self._waiting:
            self._wake_in(min(waits_s))
