"""A random back-end, in proportion to the weights."""

from __future__ import annotations

from typing import Protocol

from rproxy.policies.turn_order import TurnOrder


class Rng(Protocol):
    """The part of `random.Random` that policies use."""

    def expovariate(self, lambd: float) -> float:
        """Draw from the exponential distribution of the rate `lambd`."""


class WeightedRandomPolicy(TurnOrder):
    """Weighted random choice: a back-end's turns are a Poisson process whose rate is its weight.

    The next event of independent Poisson processes falls to each in proportion to its rate, whatever came before.
    """

    def __init__(self, rng: Rng) -> None:
        super().__init__()
        self._rng = rng

    def _step(self, weight: float) -> float:
        return self._rng.expovariate(weight)
