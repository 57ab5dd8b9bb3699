"""A random back-end, in proportion to the weights."""

from __future__ import annotations

from rproxy.policies.drawing import Drawing, Rng
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation
from rproxy.wire.pdu import WEIGHT_NORMAL


class RandomPolicy(Drawing):
    """Draws a back-end by its weight, whatever its load."""

    def __init__(self, rng: Rng) -> None:
        super().__init__(rng, independent=True)

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: the lower, the more often it is drawn; 1 for a weight of 100."""
        return WEIGHT_NORMAL / backend.weight

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""
        return Explanation(self.value(backend, now), {"weight": backend.weight})
