"""Policies by name: the built-in ones, and those of installed packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rproxy.policies.least_connections import LeastConnectionsPolicy
from rproxy.policies.report import ReportPolicy
from rproxy.policies.round_robin import RoundRobinPolicy
from rproxy.policies.weighted_random import Rng, WeightedRandomPolicy
from rproxy.pool.policy import Policy

PolicyFactory = Callable[[float | None, Rng], Policy]
"""Makes a policy from the saturation threshold (a fraction, or None) and a source of randomness."""

POLICIES: Final[dict[str, PolicyFactory]] = {
    "report": lambda saturation, rng: ReportPolicy(saturation),
    "round-robin": lambda saturation, rng: RoundRobinPolicy(),
    "least-connections": lambda saturation, rng: LeastConnectionsPolicy(),
    "random": lambda saturation, rng: WeightedRandomPolicy(rng),
}
