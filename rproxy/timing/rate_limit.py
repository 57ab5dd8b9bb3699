"""Rate limits by key, in bounded memory. Pure: the time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final, Self

import attrs

KEYS_MAX: Final = 4096
LOG_EVERY_S: Final = 10.0
"""Least time between two log lines about the same thing, which anybody may cause."""
_TOLERANCE_S: Final = 1e-9


@attrs.define(eq=False)
class RateLimit:
    """At most `burst` at once, and `rate` a second on average, for each key.

    The generic cell rate algorithm (ITU-T I.371, annex A). Beyond `KEYS_MAX` keys those admitted longest ago are
    dropped. Every `now` is in seconds, monotonic.
    """

    rate: float
    burst: int = 1
    _due: OrderedDict[Hashable, float] = attrs.field(init=False, factory=OrderedDict)
    """By key: the theoretical arrival time."""

    @classmethod
    def once_in(cls, seconds: float, burst: int = 1) -> Self:
        """One in `seconds` on average, after `burst` at once: for log lines."""
        return cls(1 / seconds, burst)

    def admit(self, now: float, key: Hashable = None) -> bool:
        """Whether it may happen now; if True, it is counted."""
        if self.wait_s(now, key):
            return False
        self._due[key] = max(self._due.pop(key, now), now) + 1 / self.rate
        trim(self._due, KEYS_MAX)
        return True

    def wait_s(self, now: float, key: Hashable = None) -> float:
        """Seconds until it may happen; 0 if it may now."""
        wait_s = self._due.get(key, now) - now - (self.burst - 1) / self.rate
        return wait_s if wait_s > _TOLERANCE_S else 0.0


def trim(table: OrderedDict[Any, Any], size: int) -> None:
    """Drop the oldest entries beyond `size`. OrderedDict: popping a dict's first key rescans deleted slots."""
    while len(table) > size:
        table.popitem(last=False)
