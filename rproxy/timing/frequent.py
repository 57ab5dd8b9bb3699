"""The most frequent of many keys, in bounded memory. Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

Key = TypeVar("Key")


class Frequent(Generic[Key]):
    """Counts keys, `keys_max` of them at most. One that is more than 1 / `keys_max` of all is always among them.

    The algorithm of Misra and Gries, "Finding repeated elements" (Science of Computer Programming 2, 1982).
    """

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._counts: dict[Key, int] = {}
        self._missed = 0
        """The most that may be missing from each count."""

    def add(self, key: Key) -> None:
        """Count `key` once. Amortised constant time: a count is lowered at most as often as it was raised."""
        if key in self._counts:
            self._counts[key] += 1
        elif len(self._counts) < self._keys_max:
            self._counts[key] = 1
        else:
            self._missed += 1
            self._counts = {each: count - 1 for each, count in self._counts.items() if count > 1}

    def top(self) -> tuple[Key, int, int] | None:
        """The most frequent key, with how often it came at least and at most; None for none."""
        if not self._counts:
            return None
        key = max(self._counts, key=self._counts.__getitem__)
        return key, self._counts[key], self._counts[key] + self._missed
