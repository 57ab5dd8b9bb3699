"""How long sessions last, by back-end and over the pool: what `peak_ewma` and `prequal` compare."""

from __future__ import annotations

from math import exp
from typing import Final

SHORTEST_S: Final = 0.001
"""Shorter sessions count as this long: their differences are those of this process's wake-ups."""
_USUAL_GAIN: Final = 1 / 64


class Latency:
    """An average in seconds, as of `at`; 0 before the first session has ended."""

    __slots__ = ("at", "seconds")

    def __init__(self) -> None:
        self.seconds = self.at = 0.0


class Latencies:
    """Reads averages of back-ends by their age, with a time constant of `decay_s` seconds.

    Without new sessions, one above the pool's approaches it: a back-end that was slow is tried again.
    """

    def __init__(self, decay_s: float) -> None:
        self._decay_s = decay_s
        self._usual_s = 0.0

    @property
    def usual_s(self) -> float:
        """The average over the pool's last sessions; 1 before the first."""
        return self._usual_s or 1.0

    def kept(self, latency: Latency, now: float) -> float:
        """The fraction (0..1) of an average that its age leaves."""
        return exp((latency.at - now) / self._decay_s)

    def set(self, latency: Latency, seconds: float, sample_s: float, now: float) -> None:
        """Note a back-end's new average, and the session's length from which it comes."""
        latency.seconds, latency.at = seconds, now
        self._usual_s += (sample_s - self._usual_s) * _USUAL_GAIN if self._usual_s else sample_s

    def read(self, latency: Latency, now: float) -> float:
        """The average now, of which the first session has ended."""
        usual_s = self.usual_s
        if latency.seconds <= usual_s:
            return latency.seconds
        return usual_s + (latency.seconds - usual_s) * self.kept(latency, now)
