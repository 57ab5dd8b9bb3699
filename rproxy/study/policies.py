"""The policies that a study compares: those of the registry, and references that no proxy could have."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

import attrs

from rproxy.policies.own_options import NoOptions, PolicyError, read_options
from rproxy.policies.registry import POLICIES, PolicyKind, UnknownPolicy, make_policy
from rproxy.pool.policy import Policy
from rproxy.study.formula import FormulaOptions, FormulaPolicy
from rproxy.study.hosts import Host
from rproxy.study.reference import AllKnowing, TwoChoices
from rproxy.study.scenarios import Scenario
from rproxy.study.traffic import Long
from rproxy.study.world import MakePolicy

BASE: Final = "least-connections"
"""The policy to which all others are compared."""
LIMIT: Final = "limit"
OWN: Final[dict[str, PolicyKind]] = {
    "formula": PolicyKind(lambda options, rng: FormulaPolicy(options), FormulaOptions),
    "two-choices": PolicyKind(lambda options, rng: TwoChoices(rng)),
}
"""Those that only a study has."""


@attrs.frozen
class Choice:
    """A policy with its own options, written ``NAME`` or ``NAME:OPTION=VALUE:OPTION=VALUE``."""

    name: str
    options: Mapping[str, str] = attrs.Factory(dict)

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Raises `PolicyError` for anything that cannot be made."""
        name, *pairs = text.split(":")
        options = {}
        for pair in pairs:
            option, equals, value = pair.partition("=")
            if not equals:
                raise PolicyError(f"{pair!r} is no OPTION=VALUE")
            if option in options:
                raise PolicyError(f"option {option} is given twice")
            options[option] = value
        choice = cls(name, options)
        if name == LIMIT:
            read_options(NoOptions, options)
        else:
            choice._make(Random())
        return choice

    def _make(self, rng: Random) -> Policy:
        own = OWN.get(self.name)
        if own is not None:
            return own(self.options, rng)
        try:
            return make_policy(self.name, self.options, rng)
        except UnknownPolicy as error:
            raise PolicyError(f"{error}, and only in studies {', '.join([LIMIT, *OWN])}") from None

    def maker(self, scenario: Scenario) -> MakePolicy:
        """What makes it for each proxy of the scenario."""

        def make(hosts: Mapping[str, Host], rng: Random) -> Policy:
            if self.name != LIMIT:
                return self._make(rng)
            hog = scenario.hog
            is_long = isinstance(scenario.traffic, Long)
            return AllKnowing(hosts, long=is_long, hog_mean=0.0 if hog is None else hog.mean)

        return make


def known() -> tuple[str, ...]:
    """All names, but for those of other packages."""
    return (*POLICIES, LIMIT, *OWN)
