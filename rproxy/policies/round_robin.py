"""Back-ends in turn, in proportion to their weights."""

from __future__ import annotations

from rproxy.policies.turn_order import TurnOrder


class RoundRobinPolicy(TurnOrder):
    """Weighted round robin: a back-end's turns are 1 / weight apart."""

    def _step(self, weight: float) -> float:
        return 1 / weight
