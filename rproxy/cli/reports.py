"""The commands that list something: sessions, events, doubts, explanations."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from rich.text import Text

from rproxy.cli import backend_names, columns
from rproxy.cli.client import Client, Failure, Query, rows_of
from rproxy.cli.figures import count, number_of, printable
from rproxy.cli.grid import Row, Table, table
from rproxy.cli.output import Output

SESSIONS: Final = "/api/sessions"
EVENTS: Final = "/api/events"
DOUBTS: Final = "/api/doubts"
EXPLAIN: Final = "/api/explain"
FOLLOW_S: Final = 1.0
"""Between two requests for new events."""
ShowEvents = Callable[[list[Row]], None]
"""Prints events: those of the last hour, and then those to come."""


def as_json(client: Client, output: Output, path: str, query: Query | None = None) -> None:
    """Print a document as the proxy sends it. Raises `Failure`."""
    text = client.text(path, query)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise Failure(f"{client.place}: no rproxy answers there: the answer is not JSON") from None
    output.write(text.decode(errors="replace").rstrip("\n") + "\n")


def sessions(client: Client, output: Output, query: Query) -> None:
    """The longest first."""
    document = client.get(SESSIONS, query)
    rows = rows_of(document, "sessions", client.place)
    output.table(table(columns.SESSIONS, rows, output.width))
    total = number_of(document.get("total"))
    if total is not None and total > len(rows) and output.width is not None:
        output.lines([Text(f"{len(rows)} of {count(total)} sessions: --limit N shows more", columns.MUTED)])


def events(client: Client, query: Query, show: ShowEvents) -> int:
    """Those of the last hour, the oldest first. Returns the number of the last."""
    document = client.get(EVENTS, query)
    show(rows_of(document, "events", client.place))
    return _last(document)


def follow(client: Client, query: Query, after: int, show: ShowEvents, sleep: Callable[[float], None]) -> None:
    """Print further events as they come, for ever; a proxy that goes away is waited for."""
    failed = False
    while True:
        sleep(FOLLOW_S)
        try:
            document = client.get(EVENTS, {**query, "limit": None, "after": after})
            if _last(document) < after:  # it was started again, and its events have new numbers
                document = client.get(EVENTS, {**query, "limit": None})
            rows = rows_of(document, "events", client.place)
        except Failure as failure:
            if not failed:
                print(f"rproxy events: {failure}; waiting for it", file=sys.stderr)
            failed = True
            continue
        failed, after = False, _last(document)
        if rows:
            show(rows)


class EventTable:
    """Prints events one below the other, with one heading."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._before: Table | None = None

    def show(self, rows: list[Row]) -> None:
        """Print these."""
        laid_out = table(columns.events(time.time()), rows, self._output.width, wrapped=True, before=self._before)
        self._output.table(laid_out, heading=self._before is None)
        self._before = laid_out


def show_events_as_json(output: Output, rows: list[Row]) -> None:
    """An object a line."""
    output.write("".join(f"{json.dumps(row)}\n" for row in rows))


def _last(document: dict[str, Any]) -> int:
    last = document.get("last")
    return last if isinstance(last, int) else 0


def doubts(client: Client, output: Output) -> None:
    """What looks wrong."""
    rows = client.rows(DOUBTS, "doubts")
    if rows or output.width is None:
        output.table(table(columns.events(time.time()), rows, output.width, wrapped=True))
    else:
        output.lines([Text("nothing looks wrong", columns.GOOD)])


def explain(client: Client, output: Output, text: str, service: str | None) -> None:
    """Why a back-end gets clients, or why it gets none, in a sentence for each service that it is of."""
    for target in backend_names.find_all(client, text, service):
        query = {"backend": target.backend, "service": target.service or None}
        for row in client.rows(EXPLAIN, "explanations", query):
            name = f"{printable(row.get('service'))}/{printable(row.get('backend'))}"
            style = columns.GOOD if row.get("eligible") else columns.WARNING
            output.lines([Text.assemble((name, style), f": {printable(row.get('text'))}")])
