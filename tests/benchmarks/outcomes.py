"""Results of a benchmark and their aims, as a simple table of reStructuredText."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


@attrs.frozen
class Outcome:
    """One row. `reached` is None for a figure without an aim."""

    figure: str
    measured: Sequence[str]
    """A cell for each column."""
    aim: str = ""
    reached: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        outcome = "" if self.reached is None else "reached" if self.reached else "missed"
        return self.figure, *self.measured, self.aim, outcome


def at_most(figure: str, measured: Sequence[str], value: float, bound: float) -> Outcome:
    """An outcome whose `value` must not exceed `bound`."""
    return Outcome(figure, measured, f"at most {bound:g}", value <= bound)


def table(columns: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """The table; `columns` are the headings of the measured values."""
    rows = [("figure", *columns, "aim", "outcome"), *(outcome.cells for outcome in outcomes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = " ".join("=" * width for width in widths)
    lines = [" ".join(map(_cell, cells, widths, range(len(cells)))).rstrip() for cells in rows]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _cell(text: str, width: int, column: int) -> str:
    """Right-align numbers (a leading digit), except in the first column."""
    return text.rjust(width) if column and text[:1].isdigit() else text.ljust(width)


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """1 if an aim was missed, else 0."""
    return int(any(outcome.reached is False for outcome in outcomes))
