"""What a pool's agents usually report: it stands in for a figure that one of them cannot tell."""

from __future__ import annotations

from typing import Final

import attrs

UNKNOWN_PERCENT: Final = 50
"""What counts for a percentage that an agent cannot tell, at least: not idle."""


@attrs.define(eq=False)
class Mean:
    """Of the numbers added and not removed, in constant time."""

    total: int = 0
    count: int = 0

    def replace(self, before: int | None, after: int | None) -> None:
        """One contributor's number has changed; None for none."""
        if before is not None:
            self.total -= before
            self.count -= 1
        if after is not None:
            self.total += after
            self.count += 1

    @property
    def value(self) -> float | None:
        """None where nobody contributes."""
        return self.total / self.count if self.count else None


@attrs.frozen
class Figures:
    """Of one back-end: percentages, and the host's connections that are not our sessions; None where not known."""

    cpu: int | None = None
    memory: int | None = None
    others: int | None = None


UNKNOWN: Final = Figures()


@attrs.define(eq=False)
class PoolMeans:
    """The means of the figures that are known, of all back-ends that are up."""

    cpu: Mean = attrs.field(init=False, factory=Mean)
    memory: Mean = attrs.field(init=False, factory=Mean)
    others: Mean = attrs.field(init=False, factory=Mean)

    def replace(self, before: Figures, after: Figures) -> None:
        """One back-end's figures have changed."""
        self.cpu.replace(before.cpu, after.cpu)
        self.memory.replace(before.memory, after.memory)
        self.others.replace(before.others, after.others)


def percent_or_mean(known: int | None, means: Mean) -> float:
    """A percentage, or if it is unknown the pool's mean: so it counts as saturated where the pool is; never as idle."""
    if known is not None:
        return known
    return max(means.value or 0.0, UNKNOWN_PERCENT)
