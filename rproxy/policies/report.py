"""The report's choice of a back-end (figure 4.4), with ties in turn."""

from __future__ import annotations

from typing import Final

import attrs

from rproxy.policies.formula import SATURATION, TCP_TERM, is_saturated, unsaturated
from rproxy.policies.own_options import option
from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.wire.pdu import WEIGHT_NORMAL

SCORE_RESOLUTION: Final = 0.01
"""Scores are compared in steps of this: two points of CPU, or a third of a connection."""

RTT_NOISE_MS: Final = 2.0
"""Round trips below this rank alike: on a LAN their differences come from wake-ups, not from paths, and would send
every client to one host until the next report. Its term is as large as that of one connection."""
_ROUNDING: Final = 1e-6
_SATURATED: Final = 1e13
"""Added to the rank of a saturated back-end: more than any sum."""

_Figures = tuple[float, float, float, float, float, bool]
"""The parts of the score that are constant until the next report: the sum without its TCP term, in steps; that term's
factor; the host's connections that are not our sessions; the weight; slow start's share; whether means replace unknown
figures.
"""


@attrs.frozen
class ReportOptions:
    """`saturation`: the share of CPU, memory or lost probes from which a back-end is saturated; None for never."""

    saturation: float | None = option(
        SATURATION, 0.001, 1, "share of CPU, memory or loss that rules a back-end out", may_be_off=True
    )


class ReportPolicy(Ranked):
    """The report's choice (figure 4.4) with the TCP term kept current; see `formula`.

    Equal scores go to the back-end with the fewest of our sessions, then to the one that has waited longest. A weight
    divides the score. So does slow start's share, but only after the score was cut to steps: back-ends that start
    together still take turns. When all are saturated, the unsaturated formula tells them apart.
    """

    def __init__(self, options: ReportOptions = ReportOptions()) -> None:
        super().__init__()
        self._saturation = options.saturation

    def _rank(self, backend: Backend, place: Place) -> Rank:
        figures = place.figures
        if figures is None:
            figures = place.figures = self._figures(backend)
        elif figures[5]:
            figures = place.figures = self._raised(backend, figures)
        steps, term, others, weight, share, _ = figures
        counts = backend.counts
        ours = counts.pending + counts.established
        tcp = others + ours
        return (int(steps + term * tcp if tcp > 0 else steps) / share, ours / weight)

    def _figures(self, backend: Backend) -> _Figures:
        report, share = backend.report, backend.share
        cpu: float | None = report.cpu
        memory: float | None = report.memory
        tcp = report.tcp
        unknown = cpu is None or memory is None or tcp is None
        nominal = backend.registration.weight
        loss = 0.0 if backend.state is State.DOWN else backend.losses.rate  # in a panic it says nothing about the host
        rtt_ms = max(backend.rtt.last_ms or 0.0, RTT_NOISE_MS)
        if cpu is None or memory is None:
            cpu, memory = backend.cpu, backend.memory
        scale = WEIGHT_NORMAL / (nominal * SCORE_RESOLUTION)
        steps = unsaturated(rtt_ms=rtt_ms, tcp=0, loss=loss, cpu=cpu, memory=memory) * scale + _ROUNDING
        if is_saturated(self._saturation, loss=loss, cpu=cpu, memory=memory):
            steps += _SATURATED
        others = backend.others if tcp is None else tcp - report.counted
        return steps, TCP_TERM * scale, others, nominal * share, share, unknown

    def _raised(self, backend: Backend, figures: _Figures) -> _Figures:
        """The pool's means change with every report. Until its own next one a back-end's figures only rise with them:
        a rank that falls would have to be entered anew.
        """
        steps, term, others, weight, share, unknown = figures
        now = self._figures(backend)
        return max(steps, now[0]), term, max(others, now[2]), weight, share, unknown
