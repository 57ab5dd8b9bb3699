"""SVG plots, by matplotlib, which is imported only here and only when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, Final

from rproxy.study.policies import BASE
from rproxy.study.statistics import Interval
from rproxy.study.table import Compared

OVERVIEW: Final = "ratios.svg"
_STYLE: Final = {"svg.fonttype": "none", "svg.hashsalt": "rproxy", "font.size": 9, "font.family": "sans-serif"}
_WITHOUT_DATE: Final = {"Date": None, "Creator": None}


class NoMatplotlib(Exception):
    """matplotlib is not installed, or does not work. The text is one line."""


def load() -> Any:
    """matplotlib.pyplot, without a display. Raises `NoMatplotlib`."""
    try:
        matplotlib: Any = import_module("matplotlib")
        matplotlib.use("svg")
        matplotlib.rcParams.update(_STYLE)
        return import_module("matplotlib.pyplot")
    except ImportError as error:
        raise NoMatplotlib(f"needs matplotlib (pip install 'rproxy[study]'): {error}") from None


def draw(pyplot: Any, folder: Path, rows: Mapping[str, Sequence[Compared]]) -> list[Path]:
    """A plot of each scenario's p99, and one of all ratios if there are several. Raises `OSError`."""
    drawn = [_draw_p99(pyplot, folder / f"{name}.svg", name, compared) for name, compared in rows.items()]
    if len(rows) > 1:
        drawn.append(_draw_ratios(pyplot, folder / OVERVIEW, rows))
    return drawn


def _draw_p99(pyplot: Any, path: Path, name: str, rows: Sequence[Compared]) -> Path:
    figure, axes = pyplot.subplots(figsize=(6, 0.6 + 0.3 * len(rows)), layout="constrained")
    for position, row in enumerate(reversed(rows)):
        axes.errorbar([row.p99.mean], [position], xerr=_bounds(row.p99), fmt="o", capsize=3, color="C0")
    axes.set_yticks(range(len(rows)), [row.policy for row in reversed(rows)])
    axes.set_xlabel(f"{name}: p99 of the response time in s")
    return _save(pyplot, figure, axes, path)


def _draw_ratios(pyplot: Any, path: Path, rows: Mapping[str, Sequence[Compared]]) -> Path:
    policies = list(dict.fromkeys(row.policy for each in rows.values() for row in each if row.policy != BASE))
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.16 * len(rows) * (len(policies) + 1)), layout="constrained")
    step = 0.8 / max(len(policies), 1)
    for number, policy in enumerate(policies):
        found = [
            (position - number * step, row.to_base)
            for position, each in enumerate(reversed(list(rows.values())))
            for row in each
            if row.policy == policy and row.to_base is not None
        ]
        for position, value in found:
            axes.errorbar(
                [value.mean], [position], xerr=_bounds(value), fmt="o", markersize=3, capsize=2, color=f"C{number % 10}"
            )
        axes.plot([], [], "o", color=f"C{number % 10}", label=policy)
    axes.axvline(1, color="grey", linewidth=0.8)
    for position in range(1, len(rows)):
        axes.axhline(position - 0.9 + step / 2, color="grey", linewidth=0.3)
    axes.set_yticks([position - 0.4 + step / 2 for position in range(len(rows))], list(reversed(list(rows))))
    axes.set_xlabel(f"p99 / p99 of {BASE}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return _save(pyplot, figure, axes, path)


def _bounds(value: Interval) -> list[list[float]] | None:
    if not isfinite(value.low) or not isfinite(value.high):
        return None
    return [[value.mean - value.low], [value.high - value.mean]]


def _save(pyplot: Any, figure: Any, axes: Any, path: Path) -> Path:
    ticker: Any = import_module("matplotlib.ticker")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(axis="x", linewidth=0.3)
    figure.savefig(path, format="svg", metadata=_WITHOUT_DATE)
    pyplot.close(figure)
    return path
