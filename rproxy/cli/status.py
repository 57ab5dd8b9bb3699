"""`rproxy status`: services and back-ends as tables."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from rich.text import Text

from rproxy.cli import figures
from rproxy.cli.client import Failure, Place, rows_of
from rproxy.cli.columns import BACKENDS, RATE, SERVICES, WARNING, by_address
from rproxy.cli.figures import number_of, printable
from rproxy.cli.grid import Column, Row, Table, table
from rproxy.cli.output import Output

PATH: Final = "/status.json"
BY_NAME: Final = "backend"
Document = Mapping[str, Any]


@attrs.frozen
class Selection:
    """Which rows are shown, in which order."""

    service: str | None = None
    """None for all."""
    states: tuple[str, ...] = ()
    """None for all."""
    text: str = ""
    """What a back-end's or its service's name must contain."""
    sort: str = BY_NAME
    """The key of a column: figures the largest first."""
    backwards: bool = False

    def services(self, document: Document, place: Place) -> list[Row]:
        """Raises `Failure`, also if there is none of that name."""
        rows = rows_of(document, "services", place)
        if self.service is None:
            return rows
        names = [printable(row.get("name")) for row in rows]
        if self.service not in names:
            raise Failure(f"no service has the name {self.service!r}; there are {', '.join(names)}")
        return [row for row in rows if row.get("name") == self.service]

    def backends(self, document: Document, place: Place) -> list[Row]:
        """Sorted by the column, and where they are equal there, by service and address. Raises `Failure`."""
        names = [str(service.get("name")) for service in rows_of(document, "services", place)]
        number = {name: number for number, name in enumerate(names)}
        rows = [row for row in rows_of(document, "backends", place) if self._has(row)]
        rows.sort(key=lambda row: (number.get(str(row.get("service")), len(number)), by_address(row)))
        if self.sort == BY_NAME:
            return rows[::-1] if self.backwards else rows
        return ordered(rows, self.sort, self.backwards)

    def _has(self, row: Row) -> bool:
        service = row.get("service")
        if self.service not in (None, service) or (self.states and row.get("state") not in self.states):
            return False
        return not self.text or self.text in figures.backend_name(row) or self.text in str(service)


def show(document: Document, place: Place, output: Output, selection: Selection) -> None:
    """Print the tables once. Raises `Failure`."""
    services, rows = selection.services(document, place), selection.backends(document, place)
    output.lines([heading(document, place)])
    output.table(services_table(services, output.width))
    output.write("\n")
    output.table(backends_table(rows, output.width, selection.sort))
    output.lines(doubts(document))


def selected(document: Document, place: Place, selection: Selection) -> Document:
    """The document with the services and back-ends that are selected. Raises `Failure`."""
    services, rows = selection.services(document, place), selection.backends(document, place)
    return {**document, "services": services, "backends": rows}


def show_json(document: Document, place: Place, output: Output, selection: Selection) -> None:
    """Print the selected part of the document. Raises `Failure`."""
    output.write(json.dumps(selected(document, place, selection), indent=1) + "\n")


def heading(document: Document, place: Place) -> Text:
    """Which proxy it is, and what concerns it as a whole."""
    parts = [f"rproxy {printable(document['version'])}" if "version" in document else "rproxy", f"at {place}"]
    if number_of(document.get("pid")) is not None:
        parts.append(f"pid {figures.count(document['pid'])}")
    if (started := number_of(document.get("started"))) is not None:
        parts.append(f"up {figures.age(time.time() - started)}")
    connections = document.get("connections")
    if isinstance(connections, dict):
        parts.append(f"{figures.count(connections.get('now'))} of {figures.count(connections.get('max'))} sessions")
    return Text(", ".join(parts))


def doubts(document: Document) -> list[Text]:
    """A line for each."""
    found = document.get("doubts")
    if not isinstance(found, list):
        return []
    return [Text(f"doubt: {_doubt(each)}", WARNING) for each in found if isinstance(each, dict)]


def _doubt(doubt: Row) -> str:
    subject = "/".join(printable(doubt[key]) for key in ("service", "backend") if doubt.get(key))
    return f"{subject}: {printable(doubt.get('text'))}" if subject else printable(doubt.get("text"))


def column_of(key: str) -> Column:
    return next(column for column in BACKENDS if column.key == key)


def ordered(rows: Sequence[Row], key: str, backwards: bool = False) -> list[Row]:
    """Sorted by a column; rows without the figure come last."""
    column = column_of(key)
    order = column.order or column.cell
    if not column.right:
        return sorted(rows, key=order, reverse=backwards)
    known = [row for row in rows if order(row) is not None]
    return sorted(known, key=order, reverse=not backwards) + [row for row in rows if order(row) is None]


def services_table(rows: Sequence[Row], width: int | None, *, watched: bool = False) -> Table:
    """With rates where they are watched."""
    return table([column for column in SERVICES if watched or column.key != RATE], rows, width)


def backends_columns(rows: Sequence[Row], width: int | None, *, watched: bool) -> list[Column]:
    """With rates where they are watched, and on a terminal without the name of the only service."""
    hidden = set() if watched else {RATE}
    if width is not None and len({str(row.get("service")) for row in rows}) < 2:
        hidden.add("service")
    return [column for column in BACKENDS if column.key not in hidden]


def backends_table(rows: Sequence[Row], width: int | None, sort: str = BY_NAME, *, watched: bool = False) -> Table:
    """With the column that they are sorted by, whatever fits."""
    columns = backends_columns(rows, width, watched=watched)
    return table([attrs.evolve(each, rank=0) if each.key == sort else each for each in columns], rows, width)
