"""The mean over a pool of one number for each back-end, in constant time."""

from __future__ import annotations

from collections.abc import Iterable


class PoolMean:
    """The mean of the numbers that back-ends contribute; None stands for no contribution."""

    __slots__ = ("count", "sum")

    def __init__(self) -> None:
        self.sum = 0.0
        self.count = 0

    def replace(self, before: float | None, after: float | None) -> None:
        """One back-end contributed `before`, and contributes `after` from now on."""
        if before is not None:
            self.sum -= before
            self.count -= 1
        if after is not None:
            self.sum += after
            self.count += 1

    def recompute(self, numbers: Iterable[float | None]) -> None:
        """Add all contributions up anew: a sum that is only corrected gathers rounding errors."""
        known = [number for number in numbers if number is not None]
        self.sum, self.count = sum(known), len(known)

    @property
    def mean(self) -> float | None:
        """None where nothing contributes."""
        return self.sum / self.count if self.count else None
