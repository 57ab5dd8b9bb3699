"""Requests in flight first, latency second: Prequal's hot-cold lexicographic rule."""

from __future__ import annotations

from math import exp
from typing import Final

import attrs

from rproxy.policies.drawing import Drawing, Record, Rng, failures, strained
from rproxy.policies.latency import SHORTEST_S, Latencies, Latency
from rproxy.policies.own_options import option
from rproxy.policies.pool_mean import PoolMean
from rproxy.policies.rules import HOT_COLD, quantile
from rproxy.policies.two_choices import CHOICES_MAX
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import Key
from rproxy.pool.policy import Explanation
from rproxy.wire.pdu import WEIGHT_NORMAL

HOT: Final = 1e6
"""Added to what is compared of a hot back-end: more than any latency."""
GAIN: Final = 1 / 16
"""The part that the last session has in an average."""
DECAY_S: Final = 10.0
"""Time constant with which a latency above the pool's is forgotten, in seconds."""
NOISE: Final = 2
"""So many connections of the host come and go without being load."""
IDLE_AFTER_S: Final = 60.0
"""Time constant with which connections that stay become part of those that do not count, in seconds."""


@attrs.frozen
class PrequalOptions:
    """`threshold`: a quantile, 0..1. `choices`: how many back-ends are drawn and compared."""

    threshold: float = option(0.6, 0, 1, "quantile of sessions in flight above which a back-end is hot")
    choices: int = option(5, 2, CHOICES_MAX, "back-ends drawn for each client", whole=True)


class _Figures:
    """Of a back-end: what sessions took, and what is in flight besides ours.

    `latency`: the average length of sessions for each one in flight when they ended. `elsewhere`: other proxies'
    sessions, and the host's connections above those that are always there, by the last report. `base`: those that are
    always there, as of `base_at`; None before the first report. `share_of_mean`: its part of the pool's mean.
    """

    __slots__ = ("base", "base_at", "elsewhere", "latency", "share_of_mean")

    def __init__(self) -> None:
        self.latency = Latency()
        self.elsewhere = self.base_at = 0.0
        self.base: float | None = None
        self.share_of_mean: float | None = None

    def update(self, backend: Backend, now: float) -> None:
        """The back-end has reported. Connections that are fewer change `base` at once, and more of them in time."""
        report = backend.report
        told = report.others or 0
        if report.tcp is None:
            self.elsewhere = told
            return
        rest = max(report.tcp - report.counted - told, 0)
        if self.base is None or rest < self.base:
            self.base = rest
        else:
            self.base += (rest - self.base) * (1 - exp((self.base_at - now) / IDLE_AFTER_S))
        self.base_at = now
        self.elsewhere = told + max(rest - self.base - NOISE, 0)


class PrequalPolicy(Drawing):
    """Of those drawn by weight, the cold one of the lowest latency; hot are those with more in flight than a quantile.

    B. Wydrowski, R. Kleinberg, S. M. Rumble, A. Archer, "Load is not what you should balance: Introducing Prequal",
    NSDI 2024. In flight are our sessions, other proxies', and the host's other connections, by its last report. Latency
    is predicted for what is in flight now: the length of the sessions that ended lately, for each that was in flight
    then. The paper's threshold is 0.84, with which clients were seen to follow each other to the same back-end.
    """

    rule = HOT_COLD

    def __init__(self, rng: Rng, options: PrequalOptions = PrequalOptions()) -> None:
        super().__init__(rng, options.choices)
        self._given = (options.threshold,)
        self._elsewhere = PoolMean()
        """Of what back-ends with agents have in flight besides ours: one without has as much."""
        self._latencies = Latencies(DECAY_S)
        self._loads = [0.0]
        """The load, relative to weight, of each candidate of the last choice."""
        self._threshold: float | None = None
        """The quantile of `_loads`; None until it is needed."""

    def _new_figures(self, now: float) -> _Figures:
        return _Figures()

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        if backend.usable:
            figures: _Figures = self._enter(backend, now).figures
            if backend.static is None:
                figures.update(backend, now)
                self._elsewhere.replace(figures.share_of_mean, figures.elsewhere)
                figures.share_of_mean = figures.elsewhere
            else:
                figures.elsewhere = self._elsewhere.mean or 0.0
        return super().reported(backend, now)

    def _drop(self, backend: Backend) -> None:
        record = self._records.get(backend)
        if record is not None:
            self._elsewhere.replace(record.figures.share_of_mean, None)
        super()._drop(backend)

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`."""
        super().closed(backend, now, served_s)
        record = self._records.get(backend)
        if served_s is None or record is None:
            return
        each_s = max(served_s, SHORTEST_S) / (_in_flight(backend, record) + 1)
        figures: _Figures = record.figures
        before_s = figures.latency.seconds or each_s
        self._latencies.set(figures.latency, before_s + (each_s - before_s) * GAIN, each_s, now)

    def _pick(self, drawn: list[Record], now: float) -> Record:
        keys = self._keys(drawn, now)
        self._loads, self._threshold = [key[3] for key in keys], None
        return drawn[self.rule.pick(keys, self._given) or 0]

    def _keys(self, drawn: list[Record], now: float) -> list[Key]:
        """The one that was drawn first is compared without the client, as in `takes_over`."""
        flights = [strained(_in_flight(record.backend, record), record, record.backend, now) for record in drawn]
        weights = [record.backend.weight for record in drawn]
        loads = [(flight + 1) / weight for flight, weight in zip(flights, weights, strict=True)]
        loads[0] = flights[0] / weights[0]
        each_s = [self._each_s(record, now) for record in drawn]
        return list(zip(each_s, flights, weights, loads, strict=True))

    def _each_s(self, record: Record | None, now: float) -> float:
        figures: _Figures | None = None if record is None else record.figures
        if figures is None or not figures.latency.seconds:
            return self._latencies.usual_s
        return self._latencies.read(figures.latency, now)

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: the expected latency in seconds for a weight of 100; much more if it is hot."""
        record = self._records.get(backend)
        load = self._load(backend, record, now)
        return HOT + load if self._is_hot(backend, load) else self._each_s(record, now) * load

    def _load(self, backend: Backend, record: Record | None, now: float) -> float:
        """What would be in flight with the client, for a weight of 100."""
        return (strained(_in_flight(backend, record), record, backend, now) + 1) * WEIGHT_NORMAL / backend.weight

    def _is_hot(self, backend: Backend, load: float) -> bool:
        """Whether it would have been hot among those compared for the last choice."""
        if self._threshold is None:
            self._threshold = quantile(self._loads, self._given[0])
        return (load - WEIGHT_NORMAL / backend.weight) / WEIGHT_NORMAL > self._threshold

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""
        record = self._records.get(backend)
        flight = _in_flight(backend, record)
        return Explanation(
            self.value(backend, now),
            {
                "hot": float(self._is_hot(backend, self._load(backend, record, now))),
                "in flight": flight,
                "latency_s": self._each_s(record, now) * (flight + 1),
                "failures": failures(record, now),
                "queue": backend.load,
                "weight": backend.weight,
            },
        )


def _in_flight(backend: Backend, record: Record | None) -> float:
    figures: _Figures | None = None if record is None else record.figures
    counts = backend.counts
    return counts.pending + counts.established + (0.0 if figures is None else figures.elsewhere)
