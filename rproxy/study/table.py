"""What the runs of a scenario say, as text and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Final, TextIO

import attrs

from rproxy.study.policies import BASE, LIMIT
from rproxy.study.runs import Run
from rproxy.study.scenarios import Scenario
from rproxy.study.statistics import Interval, geometric, interval, ratio
from rproxy.study.world import Result

SHOWN_HOSTS_MAX: Final = 4
"""For so many hosts, the table shows how many of the sessions each has got."""
_HEADINGS: Final = (
    "policy", "mean", "p50", "p99", "p99.9", "most/mean", "failures", f"p99 / {BASE}", f"p99 / {LIMIT}",
)  # fmt: skip
CSV_FIELDS: Final = (
    "scenario", "policy", "seed", "mean", "p50", "p99", "p999", "most", "failures", "count", "probes_s", "took_s",
    "chosen",
)  # fmt: skip

Results = Mapping[str, Mapping[int, Result]]
"""By policy and seed."""


@attrs.frozen
class Compared:
    """One policy in one scenario: means over seeds, and ratios to the same seeds under other policies."""

    policy: str
    mean: Interval
    p50: Interval
    p99: Interval
    p999: Interval
    most: Interval
    failures: Interval
    to_base: Interval | None
    to_limit: Interval | None
    shares: tuple[float, ...]
    """Of the sessions, in percent, by host."""


def compared(results: Results) -> list[Compared]:
    """A row for each policy, in their order."""
    return [_compared(policy, by_seed, results) for policy, by_seed in results.items()]


def _compared(policy: str, by_seed: Mapping[int, Result], results: Results) -> Compared:
    rows = list(by_seed.values())
    chosen = [sum(counts) for counts in zip(*(row.chosen for row in rows), strict=True)]
    return Compared(
        policy,
        mean=interval([row.mean for row in rows]),
        p50=interval([row.p50 for row in rows]),
        p99=geometric([row.p99 for row in rows]),
        p999=geometric([row.p999 for row in rows]),
        most=interval([row.most for row in rows]),
        failures=interval([row.failures for row in rows]),
        to_base=_to(BASE, policy, results),
        to_limit=_to(LIMIT, policy, results),
        shares=tuple(100 * count / (sum(chosen) or 1) for count in chosen),
    )


def _to(other: str, policy: str, results: Results) -> Interval | None:
    """p99 over the other policy's; None for itself, and where that was not run."""
    if other == policy or other not in results:
        return None
    mine, theirs = results[policy], results[other]
    return ratio([mine[seed].p99 for seed in mine], [theirs[seed].p99 for seed in mine])


def render(name: str, scenario: Scenario, rows: Sequence[Compared], seeds: int) -> str:
    """The table of a scenario: times in s, intervals of 95 % in brackets or as ±."""
    lines = [list(_HEADINGS), *([*map(str, _cells(row))] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    text = [f"{name}: {scenario.text} ({seeds} seed{'s' if seeds > 1 else ''})"]
    text += ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    if len(scenario.hosts) <= SHOWN_HOSTS_MAX:
        text += [f"sessions by host under {row.policy}: {_percentages(row.shares)}" for row in rows]
    return "\n".join(text) + "\n"


def _cells(row: Compared) -> tuple[str, ...]:
    return (
        row.policy,
        _symmetric(row.mean, 3),
        _symmetric(row.p50, 3),
        shown(row.p99),
        shown(row.p999),
        _symmetric(row.most, 2),
        _symmetric(row.failures, 0),
        "" if row.to_base is None else shown(row.to_base),
        "" if row.to_limit is None else shown(row.to_limit),
    )


def shown(value: Interval) -> str:
    """A mean with its interval, if it has one."""
    if isnan(value.low):
        return f"{value.mean:.2f}"
    return f"{value.mean:.2f} [{value.low:.2f} {value.high:.2f}]"


def _symmetric(value: Interval, digits: int) -> str:
    """A mean with half the width of its interval, if it has one."""
    if isnan(value.low):
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} ±{value.mean - value.low:.{digits}f}"


def _percentages(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.1f} %" for share in shares)


class CsvFile:
    """One line for each run, written at once; `chosen` has the sessions of each host."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(CSV_FIELDS)

    def write(self, run: Run, result: Result) -> None:
        """Add a run."""
        values = attrs.asdict(result)
        values["chosen"] = " ".join(map(str, result.chosen))
        self._writer.writerow([run.scenario, run.policy, run.seed, *(_text(values[name]) for name in CSV_FIELDS[3:])])
        self._file.flush()


def _text(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
