"""`rproxy choices`, and `rproxy explain` of no back-end: which back-ends clients got, and what was compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from rproxy.cli import columns, figures
from rproxy.cli.client import Client, Query, rows_of
from rproxy.cli.figures import printable
from rproxy.cli.grid import HEADING, Column, Row, table
from rproxy.cli.output import Output

PATH: Final = "/api/choices"


def show(client: Client, output: Output, query: Query) -> None:
    """A line for each, the newest first."""
    document = client.get(PATH, query)
    output.table(table(_columns(time.time()), rows_of(document, "choices", client.place), output.width, wrapped=True))


def show_last(client: Client, output: Output, service: str | None) -> None:
    """The last choice of each service, or of one, with all candidates."""
    rows = client.rows(PATH, "choices", {"service": service})
    last: dict[object, Row] = {}
    for row in rows:
        last.setdefault(row.get("service"), row)
    for row in last.values():
        _show_whole(output, row)


def _columns(now: float) -> Sequence[Column]:
    """Of choices; `now` is Unix time in s."""
    return (
        Column("time", "TIME", lambda row: figures.moment(row.get("time"), now)),
        columns.word("service", "SERVICE", 4),
        columns.word("client", "CLIENT", 3),
        columns.word("chosen", "CHOSEN"),
        columns.word("rule", "RULE", 5),
        columns.word("reason", "WHY", is_text=True),
    )


def _show_whole(output: Output, row: Row) -> None:
    client, chosen = printable(row.get("client")), printable(row.get("chosen"))
    moment = figures.moment(row.get("time"), time.time())
    output.lines([Text.assemble((f"{printable(row.get('service'))}, {moment}: client {client} got {chosen}", HEADING))])
    output.lines([printable(row.get("reason"))])
    candidates = row.get("candidates")
    rows = [each for each in candidates if isinstance(each, dict)] if isinstance(candidates, list) else []
    output.table(table(_candidate_columns(rows), rows, output.width))


def _candidate_columns(rows: Sequence[Row]) -> Sequence[Column]:
    terms = list(dict.fromkeys(name for row in rows for name in _terms(row)))
    return (
        columns.word("backend", "BACKEND"),
        columns.figure("value", "VALUE", figures.value, 0),
        *(_term(name) for name in terms),
        columns.figure("report_age", "AGE", figures.age, 1),
    )


def _term(name: str) -> Column:
    return Column(name, printable(name).upper(), lambda row: figures.value(_terms(row).get(name)), 2, right=True)


def _terms(row: Row) -> dict[str, Any]:
    terms = row.get("terms")
    return terms if isinstance(terms, dict) else {}
