"""The results as text, of which the tables are reStructuredText, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any, Final

from tests.benchmarks.peers.figures import BUSY, FIGURES, GOALS, OURS, TITLES, Figure, Goal, Results

WIDTH: Final = 110
NO_FIGURE: Final = "n/a"
BUSY_EXPLAINED: Final = fill(
    "How busy the proxy was, in percent of a core: where it is below some 90, the client and the back-end set the pace,"
    " and CPU tells more than the rate.",
    WIDTH,
)
GOALS_EXPLAINED: Final = f"To reach, {' '.join(TITLES[OURS])} by HAProxy's better configuration:"


def text(results: Results, setup: Mapping[str, str], rate: float | None) -> str:
    """The whole report."""
    parts = [
        "\n".join(f"{name}: {value}" for name, value in setup.items()),
        _explanation(len(results.rounds), rate),
        figure_table(results, FIGURES),
        BUSY_EXPLAINED if (busy := figure_table(results, BUSY)) else "",
        busy,
        GOALS_EXPLAINED if (goals := goal_table(results)) else "",
        goals,
        "\n".join(["Failed:", *results.failures]) if results.failures else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _explanation(rounds: int, rate: float | None) -> str:
    sentences = [
        f"Medians of {rounds} round{'s' * (rounds > 1)}, in each of which every peer took its turn at every row.",
        "Beside each, its ratio to that of HAProxy's better configuration: the median of the rounds' ratios.",
    ]
    if rate:
        sentences.append(
            f"Latency is at {rate:,.0f} requests/s for all, which is 60 % of what HAProxy answers on kept connections;"
            " the client's own delay in sending is no part of it, waiting for one of its connections is."
        )
    return fill(" ".join(sentences), WIDTH)


def figure_table(results: Results, figures: Sequence[Figure]) -> str:
    """One column for every peer."""
    figures = [figure for figure in figures if figure.row in results.rows]
    if not figures:
        return ""
    titles = [["", *(TITLES[peer][line] for peer in results.peers)] for line in (0, 1)]
    titles[0][0] = "figure"
    rows = [[figure.label, *(_cell(results, peer, figure) for peer in results.peers)] for figure in figures]
    return _table(titles, rows)


def _cell(results: Results, peer: str, figure: Figure) -> str:
    value = results.median(peer, figure)
    if value is None:
        return NO_FIGURE
    ratio = results.ratio(peer, figure) if figure.compared else None
    shown = f"{value:,.{figure.digits}f}"
    return shown if ratio is None else f"{shown} {_ratio(ratio)}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def goal_table(results: Results) -> str:
    goals = [goal for goal in GOALS if goal.figure.row in results.rows]
    rows = [_goal_row(goal, results.ours(goal)) for goal in goals]
    return _table([["figure", "to reach", "ratio", "outcome"]], rows) if rows else ""


def _goal_row(goal: Goal, ratio: float | None) -> list[str]:
    wanted = f"{'at least' if goal.figure.more_is_better else 'at most'} {goal.bound}"
    label = _full_label(goal.figure) + (f", by {goal.other}" if goal.other else "")
    if goal.peer != OURS:
        label = f"{' '.join(TITLES[goal.peer])}: {label}"
    if ratio is None:
        return [label, wanted, NO_FIGURE, "not measured"]
    return [label, wanted, _ratio(ratio), "reached" if goal.reached(ratio) else "not reached"]


def _full_label(figure: Figure) -> str:
    """The label with the name of its group instead of "…"."""
    return figure.label.replace("…", figure.row)


def _table(titles: list[list[str]], rows: list[list[str]]) -> str:
    """A simple table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(*titles, *rows, strict=True)]
    rule = " ".join("=" * width for width in widths)
    head = [" ".join(map(str.ljust, cells, widths)).rstrip() for cells in titles]
    body = [" ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in rows]
    return "\n".join([rule, *head, rule, *body, rule])


def as_json(results: Results, setup: Mapping[str, str], rate: float | None) -> dict[str, Any]:
    """Every value of every round, and the medians and ratios of the text."""
    return {
        "setup": dict(setup),
        "rate": rate,
        "rounds": results.rounds,
        "medians": _by_peer(results, results.median, (*FIGURES, *BUSY)),
        "ratios": _by_peer(results, results.ratio, FIGURES),
        "goals": [_goal_json(goal, results) for goal in GOALS if goal.figure.row in results.rows],
        "failures": results.failures,
    }


def _by_peer(
    results: Results, value: Callable[[str, Figure], float | None], figures: Sequence[Figure]
) -> dict[str, dict[str, float | None]]:
    measured = [figure for figure in figures if figure.row in results.rows]
    return {peer: {figure.key: value(peer, figure) for figure in measured} for peer in results.peers}


def _goal_json(goal: Goal, results: Results) -> dict[str, Any]:
    ratio = results.ours(goal)
    return {
        "figure": goal.figure.key,
        "bound": goal.bound,
        "haproxy": results.best(goal.figure) if goal.other is None else None,
        "other": goal.other,
        "peer": goal.peer,
        "ratio": ratio,
        "reached": None if ratio is None else goal.reached(ratio),
    }
