"""`rproxy choices`, and `rproxy explain` of no back-end: which back-ends clients got, and what was compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from rich.text import Text

from rproxy.cli import columns, figures
from rproxy.cli.client import Client, Query, rows_of
from rproxy.cli.columns import GOOD, MUTED
from rproxy.cli.figures import number_of, printable
from rproxy.cli.grid import HEADING, Column, Row, table
from rproxy.cli.output import Output

PATH: Final = "/api/choices"


def show(client: Client, output: Output, query: Query, *, whole: bool) -> None:
    """A line for each, the newest first, or each as a `whole` with all that were compared."""
    document = client.get(PATH, query)
    rows = rows_of(document, "choices", client.place)
    if whole:
        for row in rows:
            _show_whole(output, row)
    else:
        output.table(table(_columns(time.time()), rows, output.width, wrapped=True))
    services = document.get("services")
    missing = sum(_unrecorded(each) for each in services.values()) if isinstance(services, dict) else 0
    if missing and output.width is not None:
        output.lines([Text(f"not recorded, under load: {missing} choices", MUTED)])


def _unrecorded(counts: object) -> int:
    """Of a service."""
    return int(number_of(counts.get("unrecorded")) or 0) if isinstance(counts, dict) else 0


def show_last(client: Client, output: Output, service: str | None) -> None:
    """The last choice of each service, or of one, with all that were compared."""
    document = client.get(PATH, {"service": service, "limit": 1})
    services = document.get("services")
    names = [service] if service is not None or not isinstance(services, dict) else list(services)
    for name in names:
        for row in client.rows(PATH, "choices", {"service": name, "limit": 1}):
            _show_whole(output, row)
    if not rows_of(document, "choices", client.place):
        output.lines(["no choice has been recorded"])


def _columns(now: float) -> Sequence[Column]:
    """Of choices; `now` is Unix time in s."""
    return (
        Column("time", "TIME", lambda row: figures.moment(row.get("time"), now)),
        columns.word("service", "SERVICE", 4),
        columns.word("client", "CLIENT", 2),
        columns.word("chosen", "CHOSEN"),
        columns.word("rule", "RULE", 5),
        columns.word("why", "WHY", is_text=True),
    )


def _show_whole(output: Output, row: Row) -> None:
    moment, chosen = figures.moment(row.get("time"), time.time()), row.get("chosen")
    outcome = "no back-end" if chosen is None else printable(chosen)
    title = f"{moment}, {printable(row.get('service'))}: {printable(row.get('client'))} got {outcome}"
    output.lines([Text(title, HEADING), printable(row.get("why"))])
    candidates = row.get("candidates")
    rows = [each for each in candidates if isinstance(each, dict)] if isinstance(candidates, list) else []
    if rows:
        output.table(table(_candidate_columns(rows, chosen), rows, output.width))
    if others := _others(row):
        output.lines([Text(others, MUTED)])
    output.write("\n")


def _others(row: Row) -> str:
    """Which back-ends are not listed."""
    left_out = row.get("left_out")
    counts = left_out if isinstance(left_out, dict) else {}
    tried = counts.get("tried")
    parts = [
        f"{figures.count(count)} {text}"
        for count, text in (
            (row.get("others"), "more that are worse, or were not drawn"),
            (counts.get("full"), "full"),
            (counts.get("ineligible"), "not usable"),
        )
        if number_of(count)
    ]
    if isinstance(tried, list) and tried:
        parts.append(f"tried in vain: {', '.join(map(printable, tried))}")
    return f"not listed: {', '.join(parts)}" if parts else ""


def _candidate_columns(rows: Sequence[Row], chosen: object) -> Sequence[Column]:
    """With a column for each term that any of them has."""

    def style(row: Row) -> str:
        return GOOD if chosen is not None and row.get("backend") == chosen else ""

    return (
        columns.word("backend", "BACKEND", style=style),
        columns.figure("value", "VALUE", figures.value, 0),
        columns.figure("report_age", "AGE", figures.age, 1),
        *(
            Column(name, printable(name).upper(), _term(name), 2, right=True)
            for name in dict.fromkeys(name for row in rows for name in _terms(row))
        ),
    )


def _term(name: str) -> Callable[[Row], str]:
    return lambda row: figures.value(_terms(row).get(name))


def _terms(row: Row) -> dict[str, Any]:
    found = row.get("terms")
    return found if isinstance(found, dict) else {}
