"""The power of two choices: of two back-ends drawn at random, the less loaded one."""

from __future__ import annotations

from typing import Final

import attrs

from rproxy.policies.drawing import Drawing, Record, Rng, failures, strained
from rproxy.policies.own_options import option
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation
from rproxy.wire.pdu import WEIGHT_NORMAL

CHOICES_MAX: Final = 16
_TIE: Final = 0.5


@attrs.frozen
class TwoChoicesOptions:
    """`choices`: how many back-ends are drawn and compared."""

    choices: int = option(2, 2, CHOICES_MAX, "back-ends drawn for each client; of fewer than 8 at least 4", whole=True)


def takes_over(cost: float, sessions: float, weight: float, than: tuple[float, float, float]) -> bool:
    """Whether a back-end is to get a client instead of another one, `than`, that was drawn before it.

    Of each: what a session costs, how many there are, and the weight. With the client, it must be less loaded than the
    other one would be with half a client more. So of two that are as loaded, or idle and not different by a factor of
    two, the one drawn first stays: weights are shares of idle hosts, and noise does not send every client to one host.
    """
    other_cost, other_sessions, other_weight = than
    tie = _TIE / max(weight, other_weight)
    return cost * (sessions + 1) / weight <= other_cost * (other_sessions / other_weight + tie)


def sessions_known(backend: Backend) -> float:
    """Our sessions on it, the pending ones included, and those of other proxies, as its agent last told us; without an
    agent, as many as agents tell on average.
    """
    counts = backend.counts
    others = backend.report.others or 0 if backend.static is None else backend.claimed
    return counts.pending + counts.established + others


class TwoChoicesPolicy(Drawing):
    """Takes the one with the fewest sessions for its weight of `choices` that are drawn by weight.

    M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001. Sessions are ours
    and, by the agents' echo, those of other proxies.
    """

    def __init__(self, rng: Rng, options: TwoChoicesOptions = TwoChoicesOptions()) -> None:
        super().__init__(rng, options.choices)

    def _cost(self, record: Record, sessions: float, now: float) -> float:
        """What a session on this back-end costs, relative to others."""
        return 1.0

    def _pick(self, drawn: list[Record], now: float) -> Record:
        best, least = drawn[0], self._load(drawn[0], now)
        for record in drawn[1:]:
            load = self._load(record, now)
            if takes_over(*load, least):
                best, least = record, load
        return best

    def _load(self, record: Record, now: float) -> tuple[float, float, float]:
        backend = record.backend
        sessions = sessions_known(backend)
        return self._cost(record, sessions, now), strained(sessions, record, backend, now), backend.weight

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`: sessions with this client, for a weight of 100."""
        record = self._records.get(backend)
        sessions = sessions_known(backend)
        value = (strained(sessions, record, backend, now) + 1) * WEIGHT_NORMAL / backend.weight
        return Explanation(
            value,
            {
                "sessions": sessions,
                "failures": failures(record, now),
                "queue": backend.load,
                "weight": backend.weight,
            },
        )
