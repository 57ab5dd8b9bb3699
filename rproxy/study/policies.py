"""The policies that a study compares: those of the registry, and references that no proxy could have."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from rproxy.policies.formula import SATURATION
from rproxy.policies.registry import POLICIES, make_policy
from rproxy.pool.policy import Policy
from rproxy.study.hosts import Host
from rproxy.study.reference import AllKnowing, TwoChoices
from rproxy.study.scenarios import Scenario
from rproxy.study.traffic import Long
from rproxy.study.world import MakePolicy

BASE: Final = "least-connections"
"""The policy to which all others are compared."""
LIMIT: Final = "limit"
TWO_CHOICES: Final = "two-choices"
REFERENCES: Final = (LIMIT, TWO_CHOICES)


def known() -> tuple[str, ...]:
    """All names, those of installed packages not included."""
    return (*POLICIES, *REFERENCES)


def maker(name: str, scenario: Scenario) -> MakePolicy:
    """What makes the policy of that name for a proxy of the scenario: `NAME`, or `NAME:OPTION=VALUE:…`."""

    def make(hosts: Mapping[str, Host], rng: Random) -> Policy:
        if name == LIMIT:
            hog = scenario.hog
            is_long = isinstance(scenario.traffic, Long)
            return AllKnowing(hosts, long=is_long, hog_mean=0.0 if hog is None else hog.mean)
        if name == TWO_CHOICES:
            return TwoChoices(rng)
        return make_policy(name, SATURATION, rng)

    return make
