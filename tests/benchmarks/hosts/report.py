"""The results as text, of which the tables are reStructuredText, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any, Final

import attrs

from tests.benchmarks.hosts.figures import COLUMNS, Results
from tests.benchmarks.outcomes import table

WIDTH: Final = 110


def text(results: Results, described: Mapping[str, str], seconds: float) -> str:
    """The whole report."""
    parts = ["\n".join(f"{name}: {value}" for name, value in described.items()), _explanation(results, seconds)]
    for case in results.cases:
        parts += [f"{case}:", table(COLUMNS, results.outcomes(case))]
    for title, lines in [("Runs that did not count:", results.rejected), ("Failed:", results.failures)]:
        parts += ["\n".join([title, *lines])] if lines else []
    return "\n\n".join(parts)


def _explanation(results: Results, seconds: float) -> str:
    rounds = len(results.rounds)
    sentences = [
        f"Medians of {rounds} round{'s' * (rounds != 1)} of {seconds:g} s for each contender.",
        "Beside them, as /best, the medians of the rounds' ratios to that of HAProxy's contenders which has the least"
        " median.",
    ]
    if results.left:
        sentences.append(f"Hogs left {min(results.left):.2f} to {max(results.left):.2f} cores.")
    if results.conditions:
        late_s = max(each.late_s for each in results.conditions)
        had = min(min(each.delivered.values()) for each in results.conditions)
        sentences.append(
            f"In the runs that count, the client's p99 of sending late was {1000 * late_s:.1f} ms at most, and a host"
            f" had {had:.0%} of its quota at least while it had work."
        )
    return fill(" ".join(sentences), WIDTH)


def as_json(results: Results, described: Mapping[str, str]) -> dict[str, Any]:
    """Every value of every round."""
    return {
        "setup": dict(described),
        "left": results.left,
        "rounds": [
            {
                f"{case}": {contender: attrs.asdict(figures) for contender, figures in by_contender.items()}
                for case, by_contender in measured.items()
            }
            for measured in results.rounds
        ],
        "conditions": [attrs.asdict(each) for each in results.conditions],
        "rejected": results.rejected,
        "failures": results.failures,
    }
