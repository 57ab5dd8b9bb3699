"""`rproxy shadow`: what a second policy would have done for the same clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from rich.text import Text

from rproxy.cli import columns, figures
from rproxy.cli.client import Client, Failure, rows_of
from rproxy.cli.columns import MUTED, WARNING
from rproxy.cli.figures import number_of, printable
from rproxy.cli.grid import HEADING, Column, Row, table
from rproxy.cli.output import Output

PATH: Final = "/api/shadow"
ROLES: Final = ("acting", "shadow")


def show(client: Client, output: Output, name: str | None) -> None:
    """Of each service that has a shadow, or of the one of that name: how its policies differ. Raises `Failure`."""
    services = rows_of(client.get(PATH), "services", client.place)
    found = [row for row in services if name in (None, row.get("service"))]
    if name is not None and not found:
        raise Failure(f"no service of the name {name!r} has a shadow policy")
    for number, row in enumerate(found):
        output.write("\n" if number else "")
        output.lines([_title(row), *_notes(row)])
        policies = [{"role": role, **_part(row, role)} for role in ROLES]
        output.table(table(POLICIES, policies, output.width))
        output.write("\n")
        output.table(table(BACKENDS, rows_of(row, "backends", client.place), output.width))
    if not found and output.width is not None:
        output.lines([Text("no service has a shadow policy: --shadow POLICY adds one", MUTED)])


def _title(row: Row) -> Text:
    minute = _part(row, "minute")
    title = f"{printable(row.get('service'))}: {_of(row)}, {_of(minute)} in the last minute"
    return Text(title, HEADING)


def _of(counts: Row) -> str:
    """How many choices differed, of how many."""
    differed, choices = number_of(counts.get("differed")), number_of(counts.get("choices"))
    share = f" ({figures.share(differed / choices)})" if choices and differed is not None else ""
    return f"{figures.count(differed)} of {figures.count(choices)} choices differ{share}"


def _notes(row: Row) -> list[Text]:
    """What else there is to say of the shadow."""
    notes = {"unplaced": "had no back-end for {} clients", "failures": "failed {} times: the log tells how"}
    return [
        Text(f"the shadow {text.format(figures.count(row[key]))}", WARNING)
        for key, text in notes.items()
        if number_of(row.get(key))
    ]


def _part(row: Row, *keys: str) -> dict[str, Any]:
    """An object inside a row; empty if there is none."""
    for key in keys:
        found = row.get(key)
        row = found if isinstance(found, dict) else {}
    return row


def _figure(title: str, written: Callable[[object], str], rank: int, *keys: str) -> Column:
    *path, last = keys
    return Column(".".join(keys), title, lambda row: written(_part(row, *path).get(last)), rank, right=True)


POLICIES: Final[Sequence[Column]] = (
    columns.word("role", "ROLE"),
    columns.word("policy", "POLICY"),
    _figure("MOST NOW", figures.value, 0, "sessions", "now", "max"),
    _figure("DEV NOW", figures.value, 0, "sessions", "now", "deviation"),
    _figure("MOST 1M", figures.value, 1, "sessions", "minute", "max"),
    _figure("DEV 1M", figures.value, 1, "sessions", "minute", "deviation"),
    _figure("MOST", figures.value, 2, "sessions", "all", "max"),
    _figure("DEV", figures.value, 2, "sessions", "all", "deviation"),
    _figure("CHOSEN DEV", figures.value, 3, "choices", "all", "deviation"),
)
BACKENDS: Final[Sequence[Column]] = (
    columns.word("backend", "BACKEND"),
    columns.figure("weight", "WGHT", figures.count, 3),
    _figure("SESS", figures.count, 0, "acting", "sessions"),
    _figure("SHADOW", figures.count, 0, "shadow", "sessions"),
    _figure("CHOSEN", figures.count, 1, "acting", "choices"),
    _figure("SHADOW", figures.count, 1, "shadow", "choices"),
    _figure("CHOSEN 1M", figures.count, 2, "acting", "choices_minute"),
    _figure("SHADOW", figures.count, 2, "shadow", "choices_minute"),
)
