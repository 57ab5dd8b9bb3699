"""Whole-numbered weights by index, from which one is drawn in proportion: Fenwick's tree of partial sums (1994)."""

from __future__ import annotations


class WeightTree:
    """Changing a weight, a sum and a draw cost O(log n). Whole numbers, so that no sum drifts."""

    __slots__ = ("_size", "_sums", "_weights", "count", "total")

    def __init__(self) -> None:
        self._size = 1
        """A power of two, above every index."""
        self._sums = [0, 0]
        """At i, the sum of the weights before i, as many as the lowest bit of i says."""
        self._weights = [0]
        self.total = 0
        self.count = 0
        """Indices whose weight is not 0."""

    def set(self, index: int, weight: int) -> None:
        """Set the weight of an index, 0 to draw it no more."""
        while index >= self._size:
            self._double()
        change = weight - self._weights[index]
        if not change:
            return
        self.count += (weight > 0) - (self._weights[index] > 0)
        self._weights[index] = weight
        self.total += change
        sums, position = self._sums, index + 1
        while position <= self._size:
            sums[position] += change
            position += position & -position

    def _double(self) -> None:
        self._sums += [0] * self._size
        self._weights += [0] * self._size
        self._size *= 2
        self._sums[self._size] = self.total

    def weight(self, index: int) -> int:
        """The weight of an index, 0 unless it was set."""
        return self._weights[index] if index < self._size else 0

    def start(self, index: int) -> int:
        """The sum of the weights of all lower indices."""
        sums, total = self._sums, 0
        while index:
            total += sums[index]
            index &= index - 1
        return total

    def find(self, point: int) -> tuple[int, int]:
        """The index whose weight covers `point`, which is from 0 to below `total`, and its `start`."""
        sums, position, left = self._sums, 0, point
        step = self._size >> 1
        while step:
            sum_ = sums[position + step]
            if sum_ <= left:
                left -= sum_
                position += step
            step >>= 1
        return position, point - left
