"""Policies by name: the built-in ones, and those that installed packages offer as entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final, get_args

import attrs

from rproxy.policies.brake import BrakeOptions
from rproxy.policies.drawing import Rng
from rproxy.policies.expected_delay import ExpectedDelayPolicy
from rproxy.policies.least_connections import LeastConnectionsPolicy
from rproxy.policies.own_options import NoOptions, PolicyError, read_options
from rproxy.policies.peak_ewma import PeakEwmaOptions, PeakEwmaPolicy
from rproxy.policies.prequal import PrequalOptions, PrequalPolicy
from rproxy.policies.random_choice import RandomPolicy
from rproxy.policies.report import ReportOptions, ReportPolicy
from rproxy.policies.round_robin import RoundRobinPolicy
from rproxy.policies.two_choices import TwoChoicesOptions, TwoChoicesPolicy
from rproxy.policies.weighted_random import WeightedRandomOptions, WeightedRandomPolicy
from rproxy.pool.policy import Notification, Policy

ENTRY_POINTS: Final = "rproxy.policies"
"""The group of entry points in which other packages offer theirs."""
METHODS: Final = ("choose", *get_args(Notification), "explain")
"""The methods of `Policy`: whatever is loaded must have them."""


PolicyFactory = Callable[[Mapping[str, Any], Rng], Policy]
"""Makes a policy from its own options, which are texts or numbers by name, and a source of randomness.

It raises `PolicyError` for options that it does not have.
"""


@attrs.frozen
class PolicyKind:
    """A built-in `PolicyFactory`: `make` gets an instance of `options`, see `own_options`."""

    make: Callable[[Any, Rng], Policy]
    options: type[attrs.AttrsInstance] = NoOptions

    def __call__(self, options: Mapping[str, Any], rng: Rng) -> Policy:
        return self.make(read_options(self.options, options), rng)


POLICIES: Final[dict[str, PolicyKind]] = {
    "expected-delay": PolicyKind(lambda options, rng: ExpectedDelayPolicy(options), BrakeOptions),
    "report": PolicyKind(lambda options, rng: ReportPolicy(options), ReportOptions),
    "round-robin": PolicyKind(lambda options, rng: RoundRobinPolicy()),
    "least-connections": PolicyKind(lambda options, rng: LeastConnectionsPolicy()),
    "random": PolicyKind(lambda options, rng: RandomPolicy(rng)),
    "weighted-random": PolicyKind(lambda options, rng: WeightedRandomPolicy(rng, options), WeightedRandomOptions),
    "p2c": PolicyKind(lambda options, rng: TwoChoicesPolicy(rng, options), TwoChoicesOptions),
    "peak-ewma": PolicyKind(lambda options, rng: PeakEwmaPolicy(rng, options), PeakEwmaOptions),
    "prequal": PolicyKind(lambda options, rng: PrequalPolicy(rng, options), PrequalOptions),
}


def make_policy(name: str, options: Mapping[str, Any], rng: Rng) -> Policy:
    """A new policy of that name. Raises `PolicyError`, also for anything that a third-party package raises."""
    factory = policy_factory(name)
    try:
        policy = factory(options, rng)
    except PolicyError:
        raise
    except BaseException as error:
        raise PolicyError(f"it cannot be made: {_described(error)}") from error
    missing = [method for method in METHODS if not _has(policy, method)]
    if missing:
        raise PolicyError(f"what it makes ({type(policy).__name__}) has no method {', '.join(missing)}")
    return policy


class UnknownPolicy(PolicyError):
    """No policy has that name."""


def policy_factory(name: str) -> PolicyFactory:
    """The factory of that name: built in, or an entry point in `ENTRY_POINTS`. Raises `PolicyError`."""
    factory = POLICIES.get(name)
    if factory is not None:
        return factory
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        raise UnknownPolicy(f"no such policy; there are {', '.join([*POLICIES, *sorted(found.names)])}")
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
