"""Throttled log lines: at most one in a given time for each subject; the newest held-back line is written later."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.timing.rate_limit import RateLimit

WAITING_MAX: Final = 4096
"""Subjects with a held-back line; further ones get none."""

Write = Callable[[int], None]
"""Writes the line. Its argument: how many times `say` was called since the last line, this time included."""


@attrs.define
class _Waiting:
    """A held-back line, and how many times `say` was called for it."""

    write: Write
    times: int = 1


class Throttle:
    """Writes a line at once if the limits allow it; else later, and then only the newest of its subject.

    `each` limits the lines of one subject, `in_all` those of all, and may be shared with other throttles. To drop
    held-back lines, `RateLimit.once_in` is enough. There is one timer, and none while nothing waits.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, each: RateLimit, in_all: RateLimit | None = None) -> None:
        self._clock = clock
        self._each = each
        self._in_all = in_all
        self._waiting: dict[Hashable, _Waiting] = {}
        self._timer: IDelayedCall | None = None

    def say(self, subject: Hashable, write: Write) -> bool:
        """Call `write` now, or later in place of the subject's held-back line. False if neither."""
        waiting = self._waiting.get(subject)
        if waiting is not None:
            waiting.write = write
            waiting.times += 1
            return True
        wait_s = self._wait_s(subject)
        if not wait_s:
            self._write(subject, _Waiting(write))
            return True
        if len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting[subject] = _Waiting(write)
        self._wake_in(wait_s)
        return True

    def is_quiet(self, subject: Hashable) -> bool:
        """Whether `say` would write at once: the limits allow it, and no line is held back."""
        return subject not in self._waiting and not self._wait_s(subject)

    def flush(self) -> None:
        """Write all held-back lines, regardless of the limits."""
        for subject in list(self._waiting):
            self._write(subject, self._waiting.pop(subject))

    def stop(self) -> None:
        """Drop held-back lines, and cancel the timer. May be called twice."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_s(self, subject: Hashable) -> float:
        now = self._clock.seconds()
        return max(self._each.wait_s(now, subject), self._in_all.wait_s(now) if self._in_all is not None else 0.0)

    def _write(self, subject: Hashable, waiting: _Waiting) -> None:
        now = self._clock.seconds()
        self._each.admit(now, subject)
        if self._in_all is not None:
            self._in_all.admit(now)
        try:
            waiting.write(waiting.times)
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
                self._write(subject, self._waiting.pop(subject))
        if self._waiting:
            self._wake_in(min(waits_s))
