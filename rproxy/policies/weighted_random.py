"""A random back-end, in proportion to what it finishes for its utilisation."""

from __future__ import annotations

from math import exp
from typing import Final

import attrs

from rproxy.policies.drawing import WEIGHT_SCALE, Drawing, Record, Rng
from rproxy.policies.own_options import option
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation
from rproxy.wire.pdu import WEIGHT_NORMAL

AVERAGED_S: Final = 10.0
"""Time constant of the averages of a back-end's rates and utilisation, in seconds."""
IDLE_BELOW: Final = 0.1
BUSY_FROM: Final = 0.3
"""Utilisations, 0..1, between which a back-end's own efficiency begins to count: an idle one's says nothing, since what
the host uses for itself is most of it."""
FACTOR_MAX: Final = 10.0
"""The largest factor of a weight, and 1 over the smallest: a back-end that was slow is still tried."""
_SCALE: Final = 256
"""Weights are drawn in units of 1 / (`_SCALE` * `WEIGHT_SCALE`)."""


@attrs.frozen
class WeightedRandomOptions:
    """`penalty`: utilisation, 1 is all of a host. `blackout`, `expiry`: seconds."""

    penalty: float = option(1, 0, 100, "utilisation (1 is all of a host) added where all sessions fail")
    blackout: float = option(10, 0, 600, "seconds in which a new back-end's figures are ignored")
    expiry: float = option(180, 1, 3600, "seconds after which a back-end's figures are forgotten")


_MILLIONTHS: Final = 1_000_000
_Part = tuple[int, int]
"""Sessions finished per second and utilisation, in millionths, as far as the back-end is busy. They are whole numbers,
so that the pool's sums do not drift."""
NOTHING: Final[_Part] = (0, 0)


class _Figures:
    """Of a back-end: sessions finished and failures, each per second, and utilisation (0..1), averaged; as of `at`.

    `at` is None before the first report with a utilisation. `factor` is that of the weight since the last report, and
    `part` what the back-end contributed to the pool's sums then.
    """

    __slots__ = ("at", "counted_at", "factor", "failures", "finished", "part", "since", "utilisation")

    def __init__(self, now: float) -> None:
        self.since = self.counted_at = now
        self.at: float | None = None
        self.finished = self.failures = self.utilisation = 0.0
        self.factor = 1.0
        self.part = NOTHING

    def age(self, now: float) -> None:
        """Let the rates decay until now."""
        if now > self.counted_at:
            kept = exp((self.counted_at - now) / AVERAGED_S)
            self.finished *= kept
            self.failures *= kept
            self.counted_at = now

    def add_utilisation(self, sample: float, now: float) -> None:
        """Add a reported utilisation."""
        if self.at is None:
            self.utilisation = sample
        else:
            self.utilisation += (sample - self.utilisation) * (1 - exp((self.at - now) / AVERAGED_S))
        self.at = now

    def strain(self, penalty: float) -> float:
        """Utilisation with failures counted."""
        tried = self.finished + self.failures
        return self.utilisation + penalty * (self.failures / tried if tried else 0.0)


class WeightedRandomPolicy(Drawing):
    """Draws a back-end by its weight, times its sessions finished per second for its utilisation, beside the pool's.

    So did feedbackd (J. Kerr, 2003), by agents' loads. The weight is that of Envoy's and gRPC's client-side weighted
    round robin with ORCA load reports (gRPC proposal A58): rate / (utilisation + failures' share * penalty), where
    utilisation is the larger one of CPU and application load. One that is nearly idle, or has no figures, has the
    pool's mean.
    """

    def __init__(self, rng: Rng, options: WeightedRandomOptions = WeightedRandomOptions()) -> None:
        super().__init__(rng)
        self._options = options
        self._sums = NOTHING
        """Of the parts of all back-ends."""

    def _new_figures(self, now: float) -> _Figures:
        return _Figures(now)

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`."""
        super().closed(backend, now, served_s)
        record = self._records.get(backend)
        if served_s is not None and record is not None:
            figures: _Figures = record.figures
            figures.age(now)
            figures.finished += 1 / AVERAGED_S

    def failed(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        if backend.usable:
            figures: _Figures = self._enter(backend, now).figures
            figures.age(now)
            figures.failures += 1 / AVERAGED_S
        super().failed(backend, now)

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        if backend.usable:
            self._update(self._enter(backend, now).figures, backend, now)
        return super().reported(backend, now)

    def _update(self, figures: _Figures, backend: Backend, now: float) -> None:
        """The back-end has reported: average its figures, and compare them with the pool's."""
        report = backend.report
        figures.age(now)
        known = [percent for percent in (report.cpu, report.load) if percent is not None]
        if known:
            figures.add_utilisation(max(known) / 100, now)
        self._contribute(figures, NOTHING)
        figures.factor = 1.0
        options = self._options
        if figures.at is None or now - figures.at > options.expiry or now - figures.since < options.blackout:
            return
        utilisation = figures.strain(options.penalty)
        busy = min(max((utilisation - IDLE_BELOW) / (BUSY_FROM - IDLE_BELOW), 0.0), 1.0)
        self._contribute(
            figures, (round(busy * figures.finished * _MILLIONTHS), round(busy * utilisation * _MILLIONTHS))
        )
        finished, used = self._sums
        if busy and finished:
            factor = figures.finished * used / (utilisation * finished)
            figures.factor = min(max(factor, 1 / FACTOR_MAX), FACTOR_MAX) ** busy

    def _contribute(self, figures: _Figures, part: _Part) -> None:
        finished, used = self._sums
        old_finished, old_used = figures.part
        self._sums = finished - old_finished + part[0], used - old_used + part[1]
        figures.part = part

    def _drop(self, backend: Backend) -> None:
        record = self._records.get(backend)
        if record is not None:
            self._contribute(record.figures, NOTHING)
        super()._drop(backend)

    def _weight(self, backend: Backend, figures: _Figures, now: float) -> int:
        return max(1, round(backend.weight * WEIGHT_SCALE * _SCALE * figures.factor))

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: the lower, the more often it is drawn; 1 for a weight of 100 and the pool's efficiency."""
        record: Record | None = self._records.get(backend)
        return WEIGHT_NORMAL / (backend.weight * (1.0 if record is None else record.figures.factor))

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""
        record: Record | None = self._records.get(backend)
        figures = _Figures(now) if record is None else record.figures
        return Explanation(
            self.value(backend, now),
            {
                "weight": backend.weight,
                "factor": figures.factor,
                "finished_s": figures.finished,
                "utilisation": figures.strain(self._options.penalty),
            },
        )
