"""A rate limit for each of many keys, in a table that no flood of keys can grow or clear. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

KEYS_MAX: Final = 65_536
_TOLERANCE_S: Final = 1e-9


class RateTable:
    """At most `rate` a second for each key on average, and as many at once, but one at least.

    The generic cell rate algorithm (ITU-T I.371, annex A), as in `RateLimit`, which drops its oldest keys when it has
    too many. Here a key is kept until it has no effect any more, which takes a second, or 1 / `rate` if that is longer;
    with `KEYS_MAX` keys in the table, further ones are admitted without being counted. Every `now` is in seconds,
    monotonic.
    """

    def __init__(self, rate: float, keys_max: int = KEYS_MAX) -> None:
        self.rate = rate
        self._keys_max = keys_max
        burst = max(int(rate), 1)
        self._ahead_s = (burst - 1) / rate
        """How long before its theoretical arrival time one is admitted."""
        self._kept_s = burst / rate
        self._young: dict[Hashable, float] = {}
        """By key, the theoretical arrival time of the next one: of keys that were admitted since the last change."""
        self._old: dict[Hashable, float] = {}
        """The same of those admitted last in the `_kept_s` before it."""
        self._changes_at = float("-inf")

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def admit(self, now: float, key: Hashable) -> bool:
        """Whether it may happen now; if True, it is counted."""
        if now >= self._changes_at:
            self._change(now)
        due = self._young.get(key)
        if due is None:
            due = self._old.get(key, now)
        if due - now > self._ahead_s + _TOLERANCE_S:
            return False
        self._old.pop(key, None)
        if key in self._young or len(self) < self._keys_max:
            self._young[key] = max(due, now) + 1 / self.rate
        return True

    def _change(self, now: float) -> None:
        """Drop the old keys, which have no effect any more, and have the young ones grow old."""
        self._old = self._young if now < self._changes_at + self._kept_s else {}
        self._young = {}
        self._changes_at = now + self._kept_s
