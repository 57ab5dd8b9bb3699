"""What a screen of `rproxy status --watch` shows, and what keys change about it. Without a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
from rich.text import Text

from rproxy.cli import figures, status
from rproxy.cli.client import Place, rows_of
from rproxy.cli.columns import BAD, MUTED, RATE
from rproxy.cli.grid import Row, Table
from rproxy.cli.status import Document, Selection

SORTS: Final = {
    "a": status.BY_NAME,
    "t": "state",
    "s": "sessions",
    "n": RATE,
    "c": "cpu",
    "m": "memory",
    "v": "score",
    "l": "loss",
}
"""The column by which a key sorts."""
HELP: Final = (
    "q quit  < > sort  r reverse  / filter  arrows scroll  a addr t state s sess n new c cpu m mem v score l loss"
)
DOUBTS: Final = 3
"""Most that are shown."""
_MOVES: Final = {"up": -1, "k": -1, "down": 1, "j": 1}
_TURNS: Final = {"<": -1, "left": -1, ">": 1, "right": 1}


@attrs.define
class View:
    """One proxy's tables on a screen."""

    place: Place
    selection: Selection
    failure: str = ""
    """Why the last request failed; empty if it has not."""
    _document: Document = attrs.field(factory=dict)
    """The last one."""
    _taken_at: float | None = attrs.field(init=False, default=None)
    _laid_out: tuple[object, Table | None] = attrs.field(init=False, default=(None, None))
    """The back-ends' table, and what it is made of."""
    _offset: int = attrs.field(init=False, default=0)
    """The first row that is shown."""
    _page: int = attrs.field(init=False, default=1)
    """How many rows fit."""
    _sortable: Sequence[str] = attrs.field(init=False, default=())
    """The keys of the columns, also of those that do not fit."""
    _typing: bool = attrs.field(init=False, default=False)
    """Whether keys go to the filter."""

    def take(self, document: Document, at: float) -> None:
        """Show a new document, which came at `at`, in s of a monotonic clock. Raises `Failure` if it has no rows."""
        rows, services = rows_of(document, "backends", self.place), rows_of(document, "services", self.place)
        if self._taken_at is not None and at > self._taken_at:
            _add_rates(rows, rows_of(self._document, "backends", self.place), at - self._taken_at)
            for service in services:
                service[RATE] = sum(row.get(RATE, 0.0) for row in rows if row.get("service") == service.get("name"))
        self._document, self._taken_at, self.failure = document, at, ""

    def press(self, key: str) -> bool:
        """Do what a key is for. Returns False to quit."""
        if self._typing:
            self._type(key)
        elif key in ("q", "Q"):
            return False
        elif key == "/":
            self._typing = True
        elif key == "escape":
            self._select(text="")
        elif key == "r":
            self._select(backwards=not self.selection.backwards)
        elif key in SORTS:
            self._select(sort=SORTS[key], backwards=False)
        elif key in _TURNS:
            self._turn(_TURNS[key])
        else:
            self._scroll(key)
        return True

    def _type(self, key: str) -> None:
        text = self.selection.text
        if key in ("enter", "escape"):
            self._typing = False
            self._select(text="" if key == "escape" else text)
        elif key == "backspace":
            self._select(text=text[:-1])
        elif len(key) == 1:
            self._select(text=text + key)

    def _select(self, **changes: Any) -> None:
        self.selection = attrs.evolve(self.selection, **changes)
        self._offset = 0

    def _turn(self, by: int) -> None:
        """Sort by a column beside the present one."""
        keys = self._sortable
        if keys:
            number = keys.index(self.selection.sort) + by if self.selection.sort in keys else 0
            self._select(sort=keys[number % len(keys)], backwards=False)

    def _scroll(self, key: str) -> None:
        """`lines` limits the offset to the rows that there are."""
        if key in _MOVES:
            self._offset += _MOVES[key]
        elif key in ("page-down", " "):
            self._offset += self._page
        elif key == "page-up":
            self._offset -= self._page
        elif key == "home":
            self._offset = 0
        elif key == "end":
            self._offset = len(self._document.get("backends", ()))

    def lines(self, width: int, height: int, at: float) -> list[Text]:
        """At most `height` lines, now, at `at`."""
        top = self._top(width, height, at)
        if self._taken_at is None:
            return top[:height]
        shown = self._backends(width)
        doubts = status.doubts(self._document)
        below = doubts[:DOUBTS] if height - len(top) > DOUBTS + 4 else []
        self._page = max(height - len(top) - len(below) - 2, 1)
        self._offset = max(min(self._offset, len(shown.rows) - self._page), 0)
        footer = self._footer(len(shown.rows), len(doubts) - len(below))
        body = [shown.heading(self.selection.sort), *shown.lines(self._offset, self._offset + self._page)]
        return [*top, *body, *[Text()] * (self._page + 1 - len(body)), *below, footer][:height]

    def _backends(self, width: int) -> Table:
        """All of them: laid out once for a document, since that takes 0.3 s for 10,000."""
        made_of = (self._taken_at, self.selection, width)
        before, shown = self._laid_out
        if shown is None or before != made_of:
            rows = self.selection.backends(self._document, self.place)
            shown = status.backends_table(rows, width, self.selection.sort, watched=True)
            columns = status.backends_columns(rows, width, watched=True)
            self._sortable = [column.key for column in columns if not column.is_text]
            self._laid_out = (made_of, shown)
        return shown

    def _top(self, width: int, height: int, at: float) -> list[Text]:
        """All that is above the back-ends."""
        top = [status.heading(self._document, self.place)]
        if self.failure:
            since = "" if self._taken_at is None else f"as it was {figures.age(at - self._taken_at)} ago; "
            top.append(Text(f"{since}{self.failure}", BAD))
        if self._taken_at is None:
            return top if self.failure else [Text(f"asking {self.place}", MUTED)]
        services = self._services(width)
        most = max(height // 3 - 2, 0)
        top += [services.heading(), *services.lines(0, most)] if most else []
        return [*top, Text()] if height > 10 else top

    def _services(self, width: int) -> Table:
        return status.services_table(self.selection.services(self._document, self.place), width, watched=True)

    def _footer(self, rows: int, more_doubts: int) -> Text:
        first, last = self._offset + 1, min(self._offset + self._page, rows)
        parts = [f"{first}-{last} of {rows}"] if rows > self._page else []
        if more_doubts > 0:
            parts.append(f"{more_doubts} more doubts")
        if self._typing or self.selection.text:
            parts.append(f"filter: {self.selection.text}{'_' if self._typing else ''}")
        return Text("  ".join([*parts, HELP]), MUTED)


def _add_rates(rows: Sequence[Row], before: Sequence[Row], passed_s: float) -> None:
    """Give each row the number of its new sessions per second."""
    totals = {_key(row): figures.number_of(row.get("total")) for row in before}
    for row in rows:
        was, now = totals.get(_key(row)), figures.number_of(row.get("total"))
        if was is not None and now is not None and now >= was:
            row[RATE] = (now - was) / passed_s


def _key(row: Row) -> tuple[object, ...]:
    return (row.get("service"), row.get("address"), row.get("port"))
