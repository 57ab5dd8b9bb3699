"""A share of a core for work that may be left out. Pure: the time is an argument."""

from __future__ import annotations

from math import inf
from typing import Final

import attrs

SHARE: Final = 0.003
"""Of a core, on average."""
BURST_S: Final = 0.01
"""CPU in seconds that may be spent at once, after a time without any."""


@attrs.define(eq=False)
class CpuBudget:
    """At most `share` of a core on average, and `burst_s` seconds of CPU at once.

    It is the generic cell rate algorithm, as in `RateLimit`, with pieces of work of any length.
    """

    share: float = SHARE
    burst_s: float = BURST_S
    due: float = attrs.field(init=False, default=-inf)
    """From when on, in s on the clock of `spend`, the next piece may be done: read it for each, a call costs more."""
    _arrival: float = attrs.field(init=False, default=-inf)
    """The theoretical arrival time of the next piece, in s."""

    def spend(self, seconds: float, now: float) -> None:
        """A piece of work has taken `seconds` of CPU."""
        self._arrival = max(self._arrival, now) + seconds / self.share
        self.due = self._arrival - self.burst_s / self.share
