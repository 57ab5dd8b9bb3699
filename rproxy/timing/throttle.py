"""Lines of the log that anybody could repeat: few of them, and the last one tells how it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.timing.rate_limit import RateLimit

WAITING_MAX: Final = 4096
"""Subjects of which something is still to be said; of one more, nothing is."""

Speak = Callable[[int], None]
"""Writes the line; told how many times there was something to say since the last one, this time included."""


@attrs.define
class _Unsaid:
    speak: Speak
    times: int = 1


class Throttle:
    """Says at once what may be said, and the newest of the rest, with its number, as soon as it may.

    `each` limits the lines about one subject, `in_all` those about all; it may be shared. One timer serves all, and
    there is none while nothing waits.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, each: RateLimit, in_all: RateLimit | None = None) -> None:
        self._clock = clock
        self._each = each
        self._in_all = in_all
        self._waiting: dict[Hashable, _Unsaid] = {}
        self._timer: IDelayedCall | None = None

    def say(self, subject: Hashable, speak: Speak) -> bool:
        """Now, or later together with what has been or will be said of it till then. Whether it will be."""
        unsaid = self._waiting.get(subject)
        if unsaid is not None:
            unsaid.speak = speak
            unsaid.times += 1
            return True
        wait_s = self._wait_s(subject)
        if not wait_s:
            self._speak(subject, _Unsaid(speak))
            return True
        if len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting[subject] = _Unsaid(speak)
        self._look_after(wait_s)
        return True

    def stop(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_s(self, subject: Hashable) -> float:
        now = self._clock.seconds()
        return max(self._each.wait_s(now, subject), self._in_all.wait_s(now) if self._in_all is not None else 0.0)

    def _speak(self, subject: Hashable, unsaid: _Unsaid) -> None:
        now = self._clock.seconds()
        self._each.admit(now, subject)
        if self._in_all is not None:
            self._in_all.admit(now)
        try:
            unsaid.speak(unsaid.times)
        except Exception:
            self.log.failure("a line for the log")

    def _look_after(self, wait_s: float) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(wait_s, self._look)
        elif self._clock.seconds() + wait_s < self._timer.getTime():
            self._timer.reset(wait_s)

    def _look(self) -> None:
        self._timer = None
        waits_s = []
        for subject in list(self._waiting):
            wait_s = self._wait_s(subject)
            if wait_s:
                waits_s.append(wait_s)
            else:
                self._speak(subject, self._waiting.pop(subject))
        if self._waiting:
            self._look_after(min(waits_s))
