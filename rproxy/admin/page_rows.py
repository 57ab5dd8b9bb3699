"""Rows of the page's tables as HTML, as `static/table.js` and `static/page.js` write them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from rproxy.admin.figures import count, duration, milliseconds, percentage, significant, size
from rproxy.net.addresses import written
from rproxy.sessions.endings import Ending

FAILED: Final = (
    Ending.BACKEND_RESET,
    Ending.BACKEND_DOWN,
    Ending.NO_BACKEND,
    Ending.UNREACHABLE,
    Ending.QUEUE_FULL,
    Ending.QUEUE_TIMEOUT,
)
"""Sessions that count as failed: the client got no back-end, or the back-end broke off."""
COLUMN_HEIGHT: Final = 20
COLUMNS_MAX: Final = 8
HOT: Final = 95
WARM: Final = 80
"""Percent."""
_HEAD: Final = re.compile(r'<th scope="col" class="([^"]*)" data-key="([^"]*)"')

Row = Mapping[str, Any]


class BackendRows:
    """Renders back-ends. The page's `template` says which columns there are, and their classes."""

    def __init__(self, template: str) -> None:
        self._columns = [(names, key) for names, key in _HEAD.findall(template)]
        self._scales: dict[str, dict[str, float]] = {}

    def scale(self, rows: Iterable[Row]) -> None:
        """Have the bars of terms be relative to the largest ones of their service among these rows."""
        self._scales = {}
        for row in rows:
            largest = self._scales.setdefault(row["service"], {})
            for name, value in row["terms"].items():
                largest[name] = max(largest.get(name, 0.0), abs(value or 0.0))

    def row(self, row: Row) -> str:
        """One back-end, with a line break."""
        cells = "".join(f'<td class="{names}">{self._cell(key, row)}</td>' for names, key in self._columns)
        return f'<tr data-state="{escape(row["state"])}">{cells}</tr>\n'

    def _cell(self, key: str, row: Row) -> str:
        """Empty in the columns that only scripts fill."""
        if key == "score":
            return self._score(row)
        return _CELLS[key](row) if key in _CELLS else ""

    def _score(self, row: Row) -> str:
        largest = self._scales.get(row["service"], {})
        terms = row["terms"]
        title = "\n".join(f"{name}: {significant(value)}" for name, value in terms.items())
        fractions = [abs(value or 0.0) / largest[name] if largest.get(name) else 0.0 for name, value in terms.items()]
        return (
            f'<span title="{escape(title)}">{_columns(fractions[:COLUMNS_MAX])}'
            f'<span class="value">{significant(row["score"])}</span></span>'
        )


def _columns(fractions: Iterable[float]) -> str:
    rects = ""
    for number, fraction in enumerate(fractions):
        height = max(1.0, min(fraction, 1.0) * COLUMN_HEIGHT)
        rects += f'<rect x="{number * 6}" width="4" height="{height:.1f}" y="{COLUMN_HEIGHT - height:.1f}"/>'
    frame = f'class="columns" viewBox="0 0 48 {COLUMN_HEIGHT}" preserveAspectRatio="none" aria-hidden="true"'
    return f"<svg {frame}>{rects}</svg>"


def _rtt_ms(row: Row) -> float | None:
    """Smoothed, once there were enough probes."""
    value: float | None = row["rtt_ms"] if row["srtt_ms"] is None else row["srtt_ms"]
    return value


def _backend(row: Row) -> str:
    why = row["passed_over"] or row["said"]
    figures = f"{_state_name(row)} · {significant(row['score'])} · {milliseconds(_rtt_ms(row))} ms"
    note = why or (figures if row["state"] == "up" else _since_when(row))
    marked = ' data-why="yes"' if why else ""
    name = escape(written((row["address"], row["port"])))
    return f'<i class="dot"></i><b class="name">{name}</b> <span class="note"{marked}>{escape(note)}</span>'


def _state_name(row: Row) -> str:
    return "full" if row.get("full") else str(row["state"])


def _state(row: Row) -> str:
    state = _state_name(row)
    return _pill(state, state)


def _pill(text: str, state: str) -> str:
    return f'<span class="pill" data-state="{escape(state)}">{escape(text)}</span>'


def _sessions(row: Row) -> str:
    most = f"<small>/{count(row['max_connections'])}</small>" if row["max_connections"] else ""
    return f'<span class="value">{count(row["connections"])}</span>{most}'


def _since(row: Row) -> str:
    """When its state has changed: the time of day, or the date if that is not today's."""
    if row["since"] is None:
        return "–"  # noqa: RUF001
    now = time.time()
    then, today = time.localtime(now - row["since"]), time.localtime(now)
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d", then)


def _since_when(row: Row) -> str:
    """Its state, and since when."""
    return f"{row['state']}" if row["since"] is None else f"{row['state']} since {_since(row)}"


def _bytes(row: Row) -> str:
    up, down = row.get("bytes_up"), row.get("bytes_down")
    return size(None if up is None or down is None else up + down)


def _percent(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row[name]
        text = "–" if value is None else f"{value:.0f}"  # noqa: RUF001
        level = "hot" if (value or 0) >= HOT else "warm" if (value or 0) >= WARM else ""
        rect = f'<rect width="{min(max(value or 0, 0), 100):.0f}" height="1" class="{level}"/>'
        frame = 'class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true"'
        return f'<span class="value">{text}</span><svg {frame}>{rect}</svg>'

    return cell


_CELLS: Final[dict[str, Callable[[Row], str]]] = {
    "backend": _backend,
    "service": lambda row: escape(row["service"]),
    "state": _state,
    "rtt": lambda row: milliseconds(_rtt_ms(row)),
    "loss": lambda row: percentage(row["loss"]),
    "cpu": _percent("cpu"),
    "memory": _percent("memory"),
    "queue": _percent("load"),
    "sessions": _sessions,
    "total": lambda row: count(row["total"]),
    "bytes": _bytes,
    "weight": lambda row: f"{row['weight']}",
    "since": _since,
}


def service_columns(template: str) -> list[str]:
    """The classes of the columns of services in the page's template."""
    head = template.partition('<table id="services">')[2].partition("</thead>")[0]
    return re.findall(r'<th scope="col" class="([^"]*)"', head)


def service_row(service: Row, classes: Sequence[str]) -> str:
    """One service, from its totals as in `/status.json`."""
    endings, traffic = service["counters"]["sessions"], service["counters"]["bytes"]
    waiting = service["waiting"]
    state, colour = _state_of(service)
    cells = [
        f"<b>{escape(service['name'])}</b>",
        _pill(state, colour),
        f"{count(service['eligible'])} of {count(service['known'])}",
        count(service["sessions"]),
        "",
        "",
        f"{count(waiting)} · {duration(service['waiting_s'])}" if waiting else "0",
        count(sum(endings.values())),
        count(sum(endings.get(name, 0) for name in FAILED)),
        size(traffic["down"]),
        size(traffic["up"]),
    ]
    columns = zip(classes, cells, strict=True)
    return "<tr>" + "".join(f'<td class="{names}">{cell}</td>' for names, cell in columns) + "</tr>"


def _state_of(service: Row) -> tuple[str, str]:
    """In words, and the state whose colour it has."""
    if service["leaving"]:
        return "leaving", "draining"
    if not service["eligible"]:
        return ("full", "suspect") if service["full"] else ("no back-end", "down")
    return ("panic", "suspect") if service["panic"] else ("serving", "up")
