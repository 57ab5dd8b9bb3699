"""When clients come, and with how much work. Times in s, work in s on a core of speed 1."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sin
from random import Random
from typing import Final

import attrs

Draw = Callable[[Random], float]
"""Draws a positive number."""
Gap = Callable[[Random, float], float]
"""Draws the time from `now` until the next client."""

BURST_GAP_S: Final = 0.001
"""The longest time between two clients of a burst."""


@attrs.frozen
class Exponential:
    """An exponential distribution of that mean."""

    mean: float

    def __call__(self, rng: Random) -> float:
        return rng.expovariate(1 / self.mean)


@attrs.frozen
class Pareto:
    """A heavy tail: Pareto with the shape `alpha` above 1, cut at `most` means, so that its mean is slightly lower."""

    mean: float
    alpha: float = 1.5
    most: float = 200.0

    def __call__(self, rng: Random) -> float:
        least = self.mean * (self.alpha - 1) / self.alpha
        return min(least * rng.paretovariate(self.alpha), self.most * self.mean)


@attrs.frozen
class Mixed:
    """`first` for the fraction `share` of all, else `second`: the same constants again and again."""

    share: float
    first: float
    second: float

    def __call__(self, rng: Random) -> float:
        return self.first if rng.random() < self.share else self.second


@attrs.frozen
class Poisson:
    """Independent clients, `rate` a second."""

    rate: float

    def __call__(self, rng: Random, now: float) -> float:
        return rng.expovariate(self.rate)


@attrs.frozen
class Bursts:
    """Bursts that come independently, of `size` clients on average (geometric) within a few ms.

    Somewhat fewer than `rate` clients a second: bursts are `size` / `rate` s apart, from the last client of one on.
    """

    rate: float
    size: float = 10.0

    def __call__(self, rng: Random, now: float) -> float:
        if rng.random() < 1 - 1 / self.size:
            return BURST_GAP_S * rng.random()
        return rng.expovariate(self.rate / self.size)


@attrs.frozen
class Diurnal:
    """A short day: independent clients, whose rate swings by the fraction `swing` around `rate` in `period_s`."""

    rate: float
    period_s: float = 200.0
    swing: float = 0.4

    def __call__(self, rng: Random, now: float) -> float:
        return rng.expovariate(self.rate * (1 + self.swing * sin(2 * pi * now / self.period_s)))


@attrs.frozen
class Short:
    """Clients that come in `gap`s, each with one piece of `work`, and leave when it is done."""

    gap: Gap
    work: Draw


@attrs.frozen
class Long:
    """Clients that come in `gap`s, stay for `life` seconds, and have pieces of `work` with pauses in between.

    The pauses of one client are exponential; `pause` draws their mean once for each client. The response time is that
    of a piece of work.
    """

    gap: Gap
    work: Draw
    life: Draw
    pause: Draw
    work_mean: float
    """The mean of `work`: with the mean pause, what an open session asks for."""


@attrs.frozen
class Closed:
    """`clients` that each come again and again: a piece of `work`, a pause of `pause` seconds, the next session."""

    clients: int
    work: Draw
    pause: Draw


@attrs.frozen
class Logged:
    """The clients of an access log: when each comes, in ascending order, and its work."""

    clients: tuple[tuple[float, float], ...]


Traffic = Short | Long | Closed | Logged
