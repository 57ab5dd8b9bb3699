"""The shortest expected time of a session, by the length of those that have ended lately."""

from __future__ import annotations

from typing import Final

import attrs

from rproxy.policies.drawing import Record, Rng
from rproxy.policies.latency import SHORTEST_S, Latencies, Latency
from rproxy.policies.own_options import option
from rproxy.policies.two_choices import CHOICES_MAX, TwoChoicesPolicy, sessions_known
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation

PENALTY: Final = 10
"""A back-end with sessions of which none has ended yet counts as so many times slower than usual."""


@attrs.frozen
class PeakEwmaOptions:
    """`choices`: how many back-ends are drawn and compared. `decay`: a time constant in seconds."""

    choices: int = option(2, 2, CHOICES_MAX, "back-ends drawn for each client; of fewer than 8 at least 4", whole=True)
    decay: float = option(10, 0.1, 600, "seconds after which a session's length is mostly forgotten")


class PeakEwmaPolicy(TwoChoicesPolicy):
    """Compares sessions for their weight, times the peak-sensitive average of the time until a session has ended.

    Finagle's and linkerd's `PeakEwma` (twitter/finagle, com.twitter.finagle.loadbalancer.p2c), with three differences.
    Time without sessions lets an average fall to the pool's usual length, not to 0: a slow back-end is tried again,
    and one with a small weight is not preferred for being idle. The penalty of those not measured yet is finite: a long
    first session keeps no others away for ever. Other proxies' sessions count.
    """

    def __init__(self, rng: Rng, options: PeakEwmaOptions = PeakEwmaOptions()) -> None:
        super().__init__(rng)
        self._choices = options.choices
        self._latencies = Latencies(options.decay)

    def _new_figures(self, now: float) -> Latency:
        return Latency()

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`."""
        super().closed(backend, now, served_s)
        record = self._records.get(backend)
        if served_s is None or record is None:
            return
        latency: Latency = record.figures
        seconds = sample_s = max(served_s, SHORTEST_S)
        if sample_s < latency.seconds:
            seconds += (latency.seconds - sample_s) * self._latencies.kept(latency, now)
        self._latencies.set(latency, seconds, sample_s, now)

    def _cost(self, record: Record | None, sessions: float, now: float) -> float:
        latency: Latency | None = None if record is None else record.figures
        if latency is None or not latency.seconds:
            return self._latencies.usual_s * (PENALTY if sessions else 1)
        return self._latencies.read(latency, now)

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: the seconds until a client would be served, for a weight of 100."""
        cost = self._cost(self._records.get(backend), sessions_known(backend), now)
        return cost * super().value(backend, now)

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""
        cost = self._cost(self._records.get(backend), sessions_known(backend), now)
        load = super().explain(backend, now)
        return Explanation(load.value, {"latency_s": cost, **load.terms})
