"""Back-ends in turn, in proportion to their weights."""

from __future__ import annotations

from rproxy.policies.ranked import Place
from rproxy.policies.turn_order import TurnOrder
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation


class RoundRobinPolicy(TurnOrder):
    """Weighted round robin: a back-end's turns are 1 / weight apart."""

    def _step(self, weight: float) -> float:
        return 1 / weight

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`: how far its next turn is, where the turns of a back-end of weight 100 are 1 apart."""
        first, _ = self._rank(backend, self._places.get(backend) or Place())
        return Explanation(max(0.0, first - self._time) * 100, {"weight": backend.weight})
