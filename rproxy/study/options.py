"""What the options of `rproxy study` mean. Mistakes raise `OptionError`, whose text is one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import attrs

from rproxy.policies.own_options import OFF, PolicyError
from rproxy.study.policies import Choice, known
from rproxy.study.scenarios import SCENARIOS, Scenario

SEEDS_MAX: Final = 1000
WORKERS_MAX: Final = 1024
SECONDS_MIN: Final = 0.001
SECONDS_MAX: Final = 10_000_000.0


class OptionError(Exception):
    """An option is wrong; the text says which and why."""


@attrs.frozen
class Changes:
    """What options change in every scenario, in s; None leaves it. `freshness` is a number or ``off``."""

    seconds: float | None = None
    """After the warm-up."""
    interval: float | None = None
    freshness: str | None = None

    def apply(self, scenario: Scenario) -> Scenario:
        """The scenario with the changes."""
        probing = scenario.probing
        if self.interval is not None:
            probing = attrs.evolve(probing, interval_s=_seconds("--interval", self.interval))
        if self.freshness == OFF:
            probing = attrs.evolve(probing, freshness_s=None)
        elif self.freshness is not None:
            probing = attrs.evolve(probing, freshness_s=_seconds("--freshness", self.freshness))
        scenario = attrs.evolve(scenario, probing=probing)
        if self.seconds is not None:
            scenario = attrs.evolve(scenario, seconds=scenario.warm_s + _seconds("--seconds", self.seconds))
        return scenario


def _seconds(option: str, given: float | str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    if not SECONDS_MIN <= number <= SECONDS_MAX:
        raise OptionError(
            f"argument {option}: must be a number of seconds from {SECONDS_MIN:g} to {SECONDS_MAX:,.0f}, not {given}"
        )
    return number


def seeds_of(text: str) -> range:
    """``N`` is from 1 to N, ``A-B`` from A to B."""
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text, re.ASCII)
    if match is None:
        raise OptionError(f"argument --seeds: {text!r} is neither N nor A-B")
    first, last = (1, int(match[1])) if match[2] is None else (int(match[1]), int(match[2]))
    if not 0 <= last - first < SEEDS_MAX:
        raise OptionError(f"argument --seeds: {text!r} must be from 1 to {SEEDS_MAX} seeds")
    return range(first, last + 1)


def workers_of(number: int) -> int:
    """A number of processes."""
    if not 1 <= number <= WORKERS_MAX:
        raise OptionError(f"argument --workers: must be from 1 to {WORKERS_MAX}")
    return number


def scenarios_of(names: Sequence[str]) -> dict[str, Scenario]:
    """By name, in that order."""
    found = {}
    for name in names:
        if name not in SCENARIOS:
            near = get_close_matches(name, SCENARIOS, 1)
            hint = f"do you mean {near[0]}?" if near else "--list shows them"
            raise OptionError(f"there is no scenario {name!r}; {hint}")
        found[name] = SCENARIOS[name]()
    return found


def choices_of(text: str) -> dict[str, Choice]:
    """The policies of a list with commas, by what they are called there."""
    found = {}
    for each in text.split(","):
        try:
            found[each] = Choice.parse(each)
        except PolicyError as error:
            name = each.partition(":")[0]
            near = get_close_matches(name, known(), 1) if name not in known() else []
            hint = f"; do you mean {near[0]}?" if near else ""
            raise OptionError(f"argument --policies: {each}: {error}{hint}") from None
    return found
