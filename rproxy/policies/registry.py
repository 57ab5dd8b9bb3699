"""The built-in policies by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from rproxy.policies.least_connections import LeastConnectionsPolicy
from rproxy.policies.report import ReportPolicy
from rproxy.policies.turns import TurnPolicy
from rproxy.pool.policy import Policy


class Rng(Protocol):
    """The part of `random.Random` that policies use."""

    def expovariate(self, lambd: float) -> float: ...


PolicyFactory = Callable[[float | None, Rng], Policy]
"""Makes a policy from the saturation threshold (a fraction, or None) and a source of randomness."""

POLICIES: Final[dict[str, PolicyFactory]] = {
    "report": lambda saturation, rng: ReportPolicy(saturation),
    "round-robin": lambda saturation, rng: TurnPolicy(lambda weight: 1 / weight),
    "least-connections": lambda saturation, rng: LeastConnectionsPolicy(),
    "random": lambda saturation, rng: TurnPolicy(rng.expovariate),
}
