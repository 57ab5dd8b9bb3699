"""Policies by name: the built-in ones, and those that installed packages offer as entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final, get_args

from rproxy.policies.least_connections import LeastConnectionsPolicy
from rproxy.policies.report import ReportPolicy
from rproxy.policies.round_robin import RoundRobinPolicy
from rproxy.policies.weighted_random import Rng, WeightedRandomPolicy
from rproxy.pool.policy import Notification, Policy

ENTRY_POINTS: Final = "rproxy.policies"
"""The group of entry points in which other packages offer theirs."""
METHODS: Final = ("choose", *get_args(Notification))
"""The methods of `Policy`: whatever is loaded must have them."""


class PolicyError(Exception):
    """No usable policy has that name. The text is one line."""


PolicyFactory = Callable[[float | None, Rng], Policy]
"""Makes a policy from the saturation threshold (a fraction, or None) and a source of randomness."""

POLICIES: Final[dict[str, PolicyFactory]] = {
    "report": lambda saturation, rng: ReportPolicy(saturation),
    "round-robin": lambda saturation, rng: RoundRobinPolicy(),
    "least-connections": lambda saturation, rng: LeastConnectionsPolicy(),
    "random": lambda saturation, rng: WeightedRandomPolicy(rng),
}


def make_policy(name: str, saturation: float | None, rng: Rng) -> Policy:
    """A new policy of that name. Raises `PolicyError`, also for anything that a third-party package raises."""
    factory = policy_factory(name)
    try:
        policy = factory(saturation, rng)
    except BaseException as error:
        raise PolicyError(f"it cannot be made: {_described(error)}") from error
    missing = [method for method in METHODS if not _has(policy, method)]
    if missing:
        raise PolicyError(f"what it makes ({type(policy).__name__}) has no method {', '.join(missing)}")
    return policy


def policy_factory(name: str) -> PolicyFactory:
    """The factory of that name: built in, or an entry point in `ENTRY_POINTS`. Raises `PolicyError`."""
    factory = POLICIES.get(name)
    if factory is not None:
        return factory
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        raise PolicyError(f"no such policy; there are {', '.join([*POLICIES, *sorted(found.names)])}")
    point = found[name]
    try:
        loaded: PolicyFactory = point.load()
    except BaseException as error:
        raise PolicyError(f"cannot load {point.value}: {_described(error)}") from error
    if not callable(loaded):
        raise PolicyError(f"{point.value} cannot be called")
    return loaded


def _has(policy: Policy, method: str) -> bool:
    try:
        return callable(getattr(policy, method, None))
    except BaseException:
        return False


def _described(error: BaseException) -> str:
    """The error in one line, even if its `__str__` fails."""
    kind = type(error).__name__
    try:
        lines = str(error).split("\n")
    except BaseException:
        return kind
    return f"{kind}: {lines[0]}" if lines[0] else kind
