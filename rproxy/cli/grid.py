"""Tables of text: columns as wide as their cells, and on a terminal only those that fit.

rich's own tables take half a millisecond per row, and shorten cells rather than leave out columns.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from rproxy.cli.figures import NONE

Row = dict[str, Any]
GAP: Final = 2
"""Blanks between columns."""
TEXT_MIN: Final = 24
"""The narrowest column for a text: one that is wrapped goes below its row instead."""
INDENT: Final = 4
"""Of a text below its row."""
HEADING: Final = "bold"


@attrs.frozen
class Column:
    """A column of a table whose rows are JSON objects."""

    key: str
    """As `--sort` names it."""
    title: str
    cell: Callable[[Row], str]
    rank: int = 0
    """Those of the lowest rank are shown first where not all fit; those of 0 always."""
    right: bool = False
    """Whether it is of figures, which are aligned on the right."""
    style: Callable[[Row], str] = lambda row: ""
    order: Callable[[Row], Any] | None = None
    """What rows are sorted by, if not by the text: for a column of figures the figure, or None."""
    is_text: bool = False
    """Whether its text may be cut off or wrapped: the last column only."""


@attrs.frozen
class Table:
    """Rows laid out in the columns that are shown."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    cells: Sequence[Sequence[str]]
    widths: Sequence[int]
    """In cells of a terminal."""
    text_at: int
    """Where the lines of a text begin."""
    text_width: int | None
    """And how long they may be; None for any length."""

    def heading(self, sorted_by: str = "") -> Text:
        """The titles."""
        styles = [f"{HEADING} reverse" if column.key == sorted_by else HEADING for column in self.columns]
        return self._line([column.title for column in self.columns], styles)

    def lines(self, start: int = 0, stop: int | None = None) -> Iterator[Text]:
        """The rows from `start` up to `stop`."""
        for row, cells in zip(self.rows[start:stop], self.cells[start:stop], strict=True):
            yield self._line(cells, [column.style(row) for column in self.columns])

    def _line(self, cells: Sequence[str], styles: Sequence[str]) -> Text:
        line = Text(no_wrap=True, end="")
        padding = ""
        for cell, style, width, column in zip(cells, styles, self.widths, self.columns, strict=True):
            blanks = " " * (width - cell_len(cell))
            line.append(padding + blanks if column.right else padding)
            if column.is_text and self.text_width is not None:
                self._append_text(line, cell, style)
                return line
            line.append(cell, style)
            padding = " " * GAP if column.right else blanks + " " * GAP
        return line

    def _append_text(self, line: Text, text: str, style: str) -> None:
        wrapped = textwrap.wrap(text, self.text_width or 1, break_on_hyphens=False)
        below = "\n" + " " * self.text_at
        if self.text_at == INDENT and len(line) > INDENT:
            line.rstrip()
            line.append(below)
        line.append(below.join(wrapped), style)


def table(
    columns: Sequence[Column],
    rows: Sequence[Row],
    width: int | None,
    *,
    wrapped: bool = False,
    before: Table | None = None,
) -> Table:
    """Lay out `rows` for a terminal of `width` columns: a text that is too long goes on in further lines if `wrapped`.

    Without a `width`, for programs, there are all columns, and texts are in one line. Columns that do not fit, or that
    say nothing of any row, are left out otherwise. One that goes on `before` has its columns, at least as wide.
    """
    least = (
        {} if before is None else {column.key: each for column, each in zip(before.columns, before.widths, strict=True)}
    )
    cells = [[column.cell(row) or NONE for column in columns] for row in rows]
    widths = [
        max([cell_len(column.title), least.get(column.key, 0), *map(cell_len, each)])
        for column, each in _by_column(columns, cells)
    ]
    if width is None:
        return Table(columns, rows, cells, widths, 0, None)
    telling = {column.key for column, each in _by_column(columns, cells) if not rows or set(each) != {NONE}}
    telling |= least.keys()
    kept = fitting(columns, widths, width, telling)
    columns, widths = [columns[number] for number in kept], [widths[number] for number in kept]
    cells = [[line[number] for number in kept] for line in cells]
    if not columns[-1].is_text:
        return Table(columns, rows, cells, widths, 0, None)
    text_at = sum(widths[:-1]) + GAP * (len(widths) - 1)
    if wrapped:
        text_at = text_at if width - text_at >= min(TEXT_MIN, widths[-1]) else INDENT
        return Table(columns, rows, cells, widths, text_at, max(width - text_at, TEXT_MIN // 2))
    widths[-1] = min(widths[-1], max(width - text_at, 1))
    return Table(columns, rows, [[*line[:-1], cut(line[-1], widths[-1])] for line in cells], widths, 0, None)


def _by_column(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> Iterator[tuple[Column, list[str]]]:
    for number, column in enumerate(columns):
        yield column, [line[number] for line in cells]


def fitting(columns: Sequence[Column], widths: Sequence[int], width: int, telling: set[str]) -> list[int]:
    """The numbers of the columns that are shown: those that always are, and of the `telling` ones those that fit."""
    needed = [min(each, TEXT_MIN) if columns[number].is_text else each for number, each in enumerate(widths)]
    kept: list[int] = []
    for number in sorted(range(len(columns)), key=lambda number: columns[number].rank):
        column, left = columns[number], width - sum(needed[each] + GAP for each in kept)
        if not column.rank or (column.key in telling and needed[number] <= left):
            kept.append(number)
    return sorted(kept)


def cut(text: str, width: int) -> str:
    """At most `width` cells of it."""
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)) + "…"
