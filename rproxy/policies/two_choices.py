"""The power of two choices: of two back-ends drawn at random, the less loaded one."""

from __future__ import annotations

from typing import Final

import attrs

from rproxy.policies.drawing import Drawing, Record, Rng, failures, strained
from rproxy.policies.own_options import option
from rproxy.policies.rules import TOURNAMENT
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import Key
from rproxy.pool.policy import Explanation
from rproxy.wire.pdu import WEIGHT_NORMAL

CHOICES_MAX: Final = 16


@attrs.frozen
class TwoChoicesOptions:
    """`choices`: how many back-ends are drawn and compared."""

    choices: int = option(2, 2, CHOICES_MAX, "back-ends drawn for each client; of fewer than 8 at least 4", whole=True)


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

    rule = TOURNAMENT

    def __init__(self, rng: Rng, options: TwoChoicesOptions = TwoChoicesOptions()) -> None:
        super().__init__(rng, options.choices)

    def _cost(self, record: Record, sessions: float, now: float) -> float:
        """What a session on this back-end costs, relative to others."""
        return 1.0

    def _keys(self, drawn: list[Record], now: float) -> list[Key]:
        return [self._load(record, now) for record in drawn]

    def _load(self, record: Record, now: float) -> Key:
        backend = record.backend
        sessions = sessions_known(backend)
        return self._cost(record, sessions, now), strained(sessions, record, backend, now), backend.weight

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: sessions with this client, for a weight of 100."""
        record = self._records.get(backend)
        return (strained(sessions_known(backend), record, backend, now) + 1) * WEIGHT_NORMAL / backend.weight

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""
        return Explanation(
            self.value(backend, now),
            {
                "sessions": sessions_known(backend),
                "failures": failures(self._records.get(backend), now),
                "queue": backend.load,
                "weight": backend.weight,
            },
        )
