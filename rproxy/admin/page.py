"""The page at `/`: a table that needs no JavaScript, which the scripts of `static` keep up to date where they run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from importlib.resources import files
from typing import Any, Final

from rproxy.admin.answers import Folder
from rproxy.admin.channel import Request
from rproxy.admin.documents import Document
from rproxy.admin.figures import UNKNOWN, count, duration, size
from rproxy.admin.page_rows import FAILED, BackendRows, service_columns, service_row
from rproxy.admin.snapshots import Snapshots
from rproxy.observe.history import Happening, History
from rproxy.observe.status_json import ROWS, ServiceView, Status
from rproxy.pool.backend import Backend
from rproxy.timing.work_queue import WorkQueue

CONTENT_TYPE: Final = "text/html; charset=utf-8"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but this server's own files and answers."""
HEADERS: Final = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "x-frame-options": "DENY"}
Seconds = Callable[[], float]
ROWS_MAX: Final = 1000
"""Back-ends shown without JavaScript."""
DOUBTS_MAX: Final = 20
EVENTS_MAX: Final = 100
"""Events shown without JavaScript."""
TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
"""Of the files that the page loads, by what their names end in; UTF-8."""
_FIGURES: Final = ("sessions", "sessions_max", "eligible", "known", "waiting", "down", "failed", "ended")
"""Places of figures that are unknown to those who may not read."""
_PLACE: Final = re.compile(r"\{([a-z_]+)\}")
_FOLDER: Final = files("rproxy.admin").joinpath("static")


class Page:
    """Renders the page of the present moment."""

    def __init__(self, status: Status, history: History) -> None:
        self._status = status
        self._history = history
        template = _FOLDER.joinpath("page.html").read_text("utf-8")
        self._parts = _PLACE.split(template)
        """Texts and names of places, in turn."""
        self._rows = BackendRows(template)
        self._columns = service_columns(template)

    def rendered(self) -> Iterator[bytes]:
        """In pieces that take a millisecond at most."""
        services = [view.totals() for view in self._status.views()]
        values = self._values(services)
        text = ""
        for number, part in enumerate(self._parts):
            if number % 2 == 0:
                text += part
            elif part == "rows":
                yield text.encode()
                text = ""
                yield from self._table()
            else:
                text += values[part]
        yield text.encode()

    def locked(self) -> Iterator[bytes]:
        """The page for those who may not read: its scripts ask for the token."""
        values = dict.fromkeys(self._parts[1::2], "")
        values |= dict.fromkeys(_FIGURES, UNKNOWN)
        values |= {"doubts_hidden": " hidden", "now": _at(time.time())}
        values["more"] = "Reading needs the token: press the button Token, or use rproxy status --token-file FILE."
        yield "".join(values[part] if number % 2 else part for number, part in enumerate(self._parts)).encode()

    def _table(self) -> Iterator[bytes]:
        """Rows are read first and rendered then: bars are relative to the largest of all."""
        rows: list[dict[str, Any]] = []
        for view, backends in self._slices():
            rows += view.rows(backends)
            yield b""
        self._rows.scale(rows)
        for start in range(0, len(rows), ROWS):
            yield "".join(map(self._rows.row, rows[start : start + ROWS])).encode()

    def _slices(self) -> Iterator[tuple[ServiceView, list[Backend]]]:
        left = ROWS_MAX
        for view in self._status.views():
            backends = list(view.service.pool)[:left]
            left -= len(backends)
            for start in range(0, len(backends), ROWS):
                yield view, backends[start : start + ROWS]

    def _values(self, services: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """By name of the place, but for the back-ends; as HTML."""
        process = self._status.facts()
        known = sum(each["known"] for each in services)
        waiting_s = max((each["waiting_s"] or 0.0 for each in services), default=0.0)
        endings = [each["counters"]["sessions"] for each in services]
        doubts = self._status.doubts()
        return {
            "about": _about(process),
            "now": time.strftime("%H:%M:%S %Z"),
            "sessions": count(sum(each["sessions"] for each in services)),
            "sessions_max": count(process["sessions_max"]),
            "eligible": count(sum(each["eligible"] for each in services)),
            "known": count(known),
            "waiting": count(sum(each["waiting"] for each in services)),
            "waiting_s": f"up to {duration(waiting_s)}" if waiting_s else "",
            "down": size(sum(each["counters"]["bytes"]["down"] for each in services)),
            "failed": count(sum(each.get(name, 0) for each in endings for name in FAILED)),
            "ended": count(sum(sum(each.values()) for each in endings)),
            "doubts_hidden": "" if doubts else " hidden",
            "doubts_count": f"{len(doubts)} doubt{'s' * (len(doubts) != 1)}",
            "doubts": "\n".join([*map(_doubt, doubts[:DOUBTS_MAX]), *_more(len(doubts) - DOUBTS_MAX)]),
            "services": "\n".join(service_row(each, self._columns) for each in services),
            "more": f"{count(known - ROWS_MAX)} more: rproxy status, or /status.json" if known > ROWS_MAX else "",
            "events": "\n".join(map(_event, self._newest())) or '<li class="muted none">Nothing has happened.</li>',
        }

    def _newest(self) -> list[Happening]:
        return list(self._history.after(0))[: -EVENTS_MAX - 1 : -1]


def _about(process: Mapping[str, Any]) -> str:
    up = duration(time.time() - process["started"])
    return escape(f"{process['version']} · up {up} · pid {process['pid']}")


def _more(doubts: int) -> list[str]:
    return [f'<li class="muted">{count(doubts)} more: rproxy doubts</li>'] if doubts > 0 else []


def _doubt(doubt: Mapping[str, Any]) -> str:
    subject = " of ".join(filter(None, (doubt["backend"], doubt["service"]))) or "the proxy"
    since = f'<span class="muted">since {_at(doubt["since"])}</span>'
    return f"<li><b>{escape(subject)}</b> {escape(doubt['text'])} {since}</li>"


def _event(happening: Happening) -> str:
    subject = happening.backend or happening.service or "the proxy"
    return (
        f"<li><time>{_at(happening.at)}</time><div><b>{escape(subject)}</b>"
        f'<span class="pill" data-state="{escape(happening.kind)}">{escape(happening.kind)}</span>'
        f"<p>{escape(happening.text)}</p></div></li>"
    )


def _at(unix: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix))


class PageDocument(Folder):
    """The page, or the locked one for those who may not read, with headers that keep everything foreign out of it."""

    def __init__(self, page: Page, may_read: Callable[[Request], bool], work: WorkQueue, seconds: Seconds) -> None:
        super().__init__()
        self._may_read = may_read
        self._whole = Document(CONTENT_TYPE, Snapshots(page.rendered, work, seconds), work)
        self._locked = Document(CONTENT_TYPE, Snapshots(page.locked, work, seconds), work)

    def render(self, request: Request) -> int:
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        return (self._whole if self._may_read(request) else self._locked).render(request)


def static(work: WorkQueue, seconds: Seconds) -> Folder:
    """The files that the page loads, as `/static/NAME`."""
    folder = Folder()
    for file in _FOLDER.iterdir():
        if (kind := TYPES.get(file.name.rpartition(".")[2])) is not None:
            snapshots = Snapshots(partial(iter, (file.read_bytes(),)), work, seconds)
            folder.putChild(file.name.encode(), Document(f"{kind}; charset=utf-8", snapshots, work))
    return folder
