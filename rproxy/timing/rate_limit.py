"""How often something may happen. Pure: the time is a number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final

import attrs

KEYS_MAX: Final = 4096
_TOLERANCE_S: Final = 1e-9


@attrs.define(eq=False)
class RateLimit:
    """At most `burst` at once, and `rate` a second on average, for each key: the generic cell rate algorithm (ATM
    Forum, I.371). The keys longest unused are dropped beyond `KEYS_MAX`.
    """

    rate: float
    burst: int = 1
    _due: OrderedDict[Hashable, float] = attrs.field(init=False, factory=OrderedDict)
    """When each key would have used up what it has been granted."""

    def admit(self, now: float, key: Hashable = None) -> bool:
        """Whether it may happen now, and if so, that it does."""
        if self.wait_s(now, key):
            return False
        self._due[key] = max(self._due.pop(key, now), now) + 1 / self.rate
        trim(self._due, KEYS_MAX)
        return True

    def wait_s(self, now: float, key: Hashable = None) -> float:
        """Seconds until it may happen, 0 if it may now."""
        wait_s = self._due.get(key, now) - now - (self.burst - 1) / self.rate
        return wait_s if wait_s > _TOLERANCE_S else 0.0


def trim(table: OrderedDict[Any, Any], size: int) -> None:
    """Drop the oldest entries beyond `size`. A plain dict would look for its first one among all that it has lost."""
    while len(table) > size:
        table.popitem(last=False)
