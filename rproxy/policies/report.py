"""The report's choice of a back-end (figure 4.4), with ties in turn."""

from __future__ import annotations

from typing import Final

import attrs

from rproxy.policies.formula import SATURATION, TCP_TERM, TERMS, is_saturated, terms, unsaturated
from rproxy.policies.own_options import option
from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.policies.weights import Weights
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation
from rproxy.pool.states import State
from rproxy.wire.pdu import WEIGHT_NORMAL

SCORE_RESOLUTION: Final = 0.01
"""Scores are compared in steps of this: two points of CPU, or a third of a connection."""

TIE: Final = 0.05
"""Scores of idle back-ends that differ by no more are ties: 10 points of CPU, or 3 ms. It is more than measurements err
by, and as much as one and a half connections."""
RTT_NOISE_MS: Final = 2.0
"""Round trips below this rank alike: on a LAN their differences come from wake-ups, not from paths, and would send
every client to one host until the next report. Its term is as large as that of one connection."""
HYSTERESIS: Final = 0.05
"""So far below the saturation a back-end is no longer said to be passed over: the text must not change with each
report. The choice has no hysteresis."""
_ROUNDING: Final = 1e-6
SATURATED_VALUE: Final = 1e11
"""Added to the score of a saturated back-end: more than any sum."""

_Figures = tuple[float, float, float, float, bool]
"""The parts of the score that are constant until the next report: the sum in steps, with the connections that are
nobody's sessions; what one session adds; what one of ours adds beyond that while slow start lasts; the sessions of
other proxies; whether means replace figures that its agent does not know.
"""


@attrs.frozen
class ReportOptions:
    """`saturation`: the share of CPU, memory or lost probes from which a back-end is saturated; None for never."""

    saturation: float | None = option(
        SATURATION, 0.001, 1, "share of CPU, memory or loss that rules a back-end out", may_be_off=True
    )


class _Place(Place):
    """`saturated` is what is said to be saturated, empty for nothing; `weight` the registered one."""

    __slots__ = ("saturated", "weight")

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.saturated = ""
        self.weight = 0


class ReportPolicy(Ranked):
    """The report's choice (figure 4.4) with the TCP term kept current; see `formula`.

    Idle back-ends whose scores differ by less than `TIE` take turns, by weight; a turn counts for no more than the
    sessions that a back-end has since got. Otherwise equal scores go to the back-end with the fewest of our sessions.
    Sessions, ours and those that other proxies claim, count for a weight of 100: one of 200 carries twice as many at
    the same score. Connections that nobody claims are the host's own: they count as they are, or else a few would keep
    all clients from a back-end of small weight. Slow start's share scales our sessions as the weight does, but only
    after the score was cut to steps: back-ends that start together still take turns. When all are saturated, the
    unsaturated formula tells them apart.
    """

    def __init__(self, options: ReportOptions = ReportOptions()) -> None:
        super().__init__()
        self._saturation = options.saturation
        self._weights = Weights()

    def _rank(self, backend: Backend, place: _Place) -> Rank:
        figures = place.figures
        if figures is None:
            figures = place.figures = self._figures(backend)
        elif figures[4]:
            figures = place.figures = self._raised(backend, figures)
        steps, term, starting, others, _ = figures
        counts = backend.counts
        ours = counts.pending + counts.established
        sessions = others + ours
        turn = place.turn - (term + starting) * ours
        time = self._time
        score = int(steps + term * sessions if sessions > 0 else steps) + starting * ours
        return (score + (turn if turn > time else time), ours * place.step)

    def opened(self, backend: Backend, now: float) -> None:
        """See `Policy`. Sessions tell back-ends of one weight apart: only idle ones take turns."""
        if backend.usable:
            place = self._places.get(backend) or self._place(backend)
            if backend.connections == 1 or self._weights.differ:
                self._take_turn(place)
            else:
                place.chosen = next(self._order)

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        if backend.usable:
            place: _Place = self._place(backend)
            weight = backend.base_weight
            self._weights.replace(place.weight, weight)
            place.weight = weight
            self._set_step(place, TIE / SCORE_RESOLUTION * WEIGHT_NORMAL / backend.weight)
        super().reported(backend, now)
        return self._saturated(backend) if backend.usable else None

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: the score, with the back-end's turn; `SATURATED_VALUE` more if it is saturated."""
        return (super().value(backend, now) - self._time) * SCORE_RESOLUTION

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""
        place: _Place = self._places.get(backend) or self._new_place(backend)
        cpu, memory, loss = backend.cpu, backend.memory, _loss(backend)
        _, term, starting, others, _ = self._figures(backend)
        sessions = max(others + backend.connections, 0)
        parts = terms(
            rtt_ms=max(backend.rtt_ms, RTT_NOISE_MS),
            tcp=unclaimed(backend) + sessions * WEIGHT_NORMAL / backend.base_weight,
            loss=loss,
            cpu=cpu,
            memory=memory,
        )
        explained = dict(zip(TERMS, parts, strict=True))
        ours = backend.connections
        explained["turn"] = max(0.0, place.turn - (term + starting) * ours - self._time) * SCORE_RESOLUTION
        if starting:
            explained["slow start"] = starting * ours * SCORE_RESOLUTION
        if is_saturated(self._saturation, loss=loss, cpu=cpu, memory=memory):
            explained["saturated"] = SATURATED_VALUE
        return Explanation(self.value(backend, now), explained)

    def _new_place(self, backend: Backend) -> _Place:
        place = _Place(backend)
        place.turn = self._time
        return place

    def _dropped(self, place: _Place) -> None:
        self._weights.replace(place.weight, 0)

    def _saturated(self, backend: Backend) -> str:
        """What is at the saturation, in words for operators."""
        threshold = self._saturation
        if threshold is None:
            return ""
        place: _Place = self._places[backend]
        figures = {"CPU": backend.cpu / 100, "memory": backend.memory / 100, "loss": _loss(backend)}
        if place.saturated and figures[place.saturated] < threshold - HYSTERESIS:
            place.saturated = ""
        if not place.saturated:
            place.saturated = next((name for name, figure in figures.items() if figure >= threshold), "")
        return f"{place.saturated} from {100 * threshold:g} %" if place.saturated else ""

    def _figures(self, backend: Backend) -> _Figures:
        report = backend.report
        cpu: float | None = report.cpu
        memory: float | None = report.memory
        tcp = report.tcp
        unknown = (cpu is None or memory is None or tcp is None) and backend.static is None
        loss = _loss(backend)
        rtt_ms = max(backend.rtt_ms, RTT_NOISE_MS)
        if cpu is None or memory is None:
            cpu, memory = backend.cpu, backend.memory
        own = unclaimed(backend)
        steps = unsaturated(rtt_ms=rtt_ms, tcp=own, loss=loss, cpu=cpu, memory=memory) / SCORE_RESOLUTION + _ROUNDING
        if is_saturated(self._saturation, loss=loss, cpu=cpu, memory=memory):
            steps += SATURATED_VALUE / SCORE_RESOLUTION
        others = foreign(backend) - own
        term = TCP_TERM / SCORE_RESOLUTION * WEIGHT_NORMAL / backend.base_weight
        return steps, term, term * (1 / backend.share - 1), others, unknown

    def _raised(self, backend: Backend, figures: _Figures) -> _Figures:
        """The pool's means change with every report. Until its own next one a back-end's figures only rise with them:
        a rank that falls would have to be entered anew.
        """
        steps, term, starting, others, unknown = figures
        now = self._figures(backend)
        return max(steps, now[0]), term, starting, max(others, now[3]), unknown


def foreign(backend: Backend) -> float:
    """The host's connections that are not our sessions: below 0 if some of these had not been counted yet."""
    report = backend.report
    return backend.others if report.tcp is None else report.tcp - report.counted


def unclaimed(backend: Backend) -> float:
    """Those of them that are no sessions of other proxies either."""
    return max(0, foreign(backend) - (backend.report.others or 0))


def _loss(backend: Backend) -> float:
    """The fraction of probes lost; of one that is down, in a panic, it says nothing about the host."""
    return 0.0 if backend.state is State.DOWN else backend.losses.rate
