"""The report's choice of a back-end (figure 4.4), and ties in turn."""

from __future__ import annotations

from typing import Final

from rproxy.policies.formula import TCP_TERM, is_saturated, unsaturated
from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.wire.pdu import WEIGHT_NORMAL

SCORE_RESOLUTION: Final = 0.01
"""Scores are compared in steps of this: two points of CPU, or a third of a connection."""

RTT_NOISE_MS: Final = 2.0
"""Round trips below this rank as this: on a LAN their differences tell of wake-ups, not of paths, and would send every
client to one host until the next report. Its term is as large as that of one connection."""
_ROUNDING: Final = 1e-6
_SATURATED: Final = 1e13
"""More than any sum: what comes first in the rank of a saturated back-end."""

_Settled = tuple[float, float, float, float, float, bool]


class ReportPolicy(Ranked):
    """The report's choice (figure 4.4) with the live TCP term; see `formula`.

    Round trips below `RTT_NOISE_MS` count as that. Equal scores go to the back-end with fewest of our sessions, then
    to the one that has waited longest. A weight divides the score, and so does the share of one that starts slowly,
    but only after steps have been made of it: back-ends that start together take turns as ever. When all are
    saturated, they are told apart by the unsaturated formula.
    """

    def __init__(self, saturation: float | None) -> None:
        super().__init__()
        self._saturation = saturation

    def reported(self, backend: Backend) -> None:
        if backend.slot >= 0:
            self._place(backend).own = self._settle(backend)
        super().reported(backend)

    def _settle(self, backend: Backend) -> _Settled:
        """What stays of the score until the next report: the sum without its TCP term, that term's factor, the host's
        connections that are not our sessions, the weight, the share of it while the back-end starts slowly, and whether
        the pool's usual figures stand in for any that are unknown.
        """
        report, weight = backend.report, backend.registration.weight
        cpu, memory = backend.cpu, backend.memory
        loss = 0.0 if backend.state is State.DOWN else backend.losses.rate  # in a panic it tells nothing of the host
        scale = WEIGHT_NORMAL / (weight * SCORE_RESOLUTION)
        rtt_ms = max(backend.rtt.last_ms or 0.0, RTT_NOISE_MS)
        rest = unsaturated(rtt_ms=rtt_ms, tcp=0, loss=loss, cpu=cpu, memory=memory)
        steps = rest * scale + _ROUNDING
        if is_saturated(self._saturation, loss=loss, cpu=cpu, memory=memory):
            steps += _SATURATED
        unknown = report.tcp is None or report.cpu is None or report.memory is None
        return steps, TCP_TERM * scale, backend.others, backend.weight, backend.share, unknown

    def _rank(self, backend: Backend, place: Place) -> Rank:
        if place.own is None:
            place.own = self._settle(backend)
        elif place.own[5]:
            place.own = self._raised(backend, place.own)
        steps, term, others, weight, share, _ = place.own
        ours = backend.pending + backend.established
        tcp = others + ours
        return (int(steps + term * tcp if tcp > 0 else steps) / share, ours / weight)

    def _raised(self, backend: Backend, own: _Settled) -> _Settled:
        """What is usual changes with everybody's reports. Until its own next one it only rises here: a rank that falls
        would have to be entered anew.
        """
        steps, term, others, weight, share, unknown = own
        now = self._settle(backend)
        return max(steps, now[0]), term, max(others, now[2]), weight, share, unknown
