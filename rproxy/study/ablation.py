"""The report's formula (figure 4.4) changed in one place at a time: which of its parameters matter.

Its last chapter asks for this. Reports come as it has them, every 5 s and not on demand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from rproxy.policies.own_options import OFF
from rproxy.study.formula import FormulaOptions
from rproxy.study.policies import Choice
from rproxy.study.proxies import Probing
from rproxy.study.runs import Run
from rproxy.study.scenarios import Scenario
from rproxy.study.statistics import Interval, geometric, ratio
from rproxy.study.table import shown
from rproxy.study.world import Result

WHOLE: Final = "the report's"
"""The variant to which all others are compared."""
TERMS: Final = ("rtt", "tcp", "loss", "cpu", "memory")
FACTORS: Final = {"off": 0.0, "/ 4": 0.25, "* 4": 4.0}
"""By which each weight is multiplied."""
THRESHOLDS: Final = (0.6, 0.65, 0.75, 0.8, 0.85, 0.9, 0.95)
INTERVALS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 10.0, 20.0)


@attrs.frozen
class Variant:
    """The formula with those options, and the interval between probes, in s."""

    name: str
    options: Mapping[str, str] = attrs.Factory(dict)
    interval_s: float = 5.0

    def run(self, scenario: str, world: Scenario, seed: int) -> Run:
        """One run of it."""
        world = attrs.evolve(world, probing=Probing(self.interval_s, None))
        return Run(scenario, self.name, seed, world, Choice("formula", self.options))


def variants() -> Iterator[Variant]:
    """All of them, the whole formula first. Weights and intervals are changed with the threshold, and without it."""
    yield Variant(WHOLE)
    yield Variant("threshold off", {"saturation": OFF})
    for threshold in THRESHOLDS:
        yield Variant(f"threshold {threshold:g}", {"saturation": f"{threshold:g}"})
    for before, options in (("", {}), ("threshold off, ", {"saturation": OFF})):
        for term in TERMS:
            weight = getattr(FormulaOptions(), term)
            for change, factor in FACTORS.items():
                yield Variant(f"{before}{term} {change}", {**options, term: f"{factor * weight:g}"})
        for interval_s in INTERVALS_S:
            yield Variant(f"{before}every {interval_s:g} s", options, interval_s)


def runs(scenarios: Mapping[str, Scenario], seeds: Sequence[int]) -> list[Run]:
    """All that it takes, by scenario and variant."""
    return [
        variant.run(name, scenario, seed) for name, scenario in scenarios.items() for variant in variants()
        for seed in seeds
    ]  # fmt: skip


def render(name: str, scenario: Scenario, results: Mapping[str, Mapping[int, Result]]) -> str:
    """The table of one scenario: p99 in s, and its ratio to the whole formula's, marked if its interval excludes 1."""
    whole = [result.p99 for result in results[WHOLE].values()]
    lines = [f"{name}: {scenario.text} ({len(whole)} seeds); the report's formula, one change at a time"]
    width = max(map(len, results))
    lines.append(f"{'change':{width}}  {'p99':22}  p99 / {WHOLE}")
    for variant, by_seed in results.items():
        values = [result.p99 for result in by_seed.values()]
        against = ratio(values, whole)
        mark = " *" if _differs(against) else ""
        lines.append(f"{variant:{width}}  {shown(geometric(values)):22}  {shown(against)}{mark}")
    return "\n".join(lines) + "\n"


def _differs(value: Interval) -> bool:
    return value.low > 1 or value.high < 1
