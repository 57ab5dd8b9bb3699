"""The registered weights of a pool's back-ends."""

from __future__ import annotations

from collections import Counter


class Weights:
    """How many back-ends have each weight. 0 stands for a back-end that is not counted."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = 0
        self._backends = 0
        self.moved = False
        """Whether anything has changed since this was last set to False."""

    def replace(self, before: int, after: int) -> None:
        """One back-end's weight was `before`, and is `after` from now on."""
        if before:
            self._counts[before] -= 1
            if not self._counts[before]:
                del self._counts[before]
            self._backends -= 1
        if after:
            self._counts[after] += 1
            self._backends += 1
        self._total += after - before
        self.moved = self.moved or after != before

    @property
    def differ(self) -> bool:
        """Whether there are two that are not equal."""
        return len(self._counts) > 1

    @property
    def mean(self) -> float:
        """At least one must be counted."""
        return self._total / self._backends
