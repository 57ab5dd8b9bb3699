"""The page as HTML, and its files."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

import pytest
from twisted.internet.task import Clock

from rproxy.admin.access import Access
from rproxy.admin.answers import Folder
from rproxy.admin.http_server import AdminSite
from rproxy.admin.page import DOUBTS_MAX, EVENTS_MAX, POLICY, ROWS_MAX, Page, PageDocument, static
from rproxy.admin.page_rows import FAILED
from rproxy.agent.sampler import Load
from rproxy.observe.history import History
from rproxy.observe.scores import ReportScore
from rproxy.observe.status_json import ProcessFacts, ServiceView, Status
from rproxy.sessions.capacity import Capacity
from rproxy.sources.agents.counters import Counters
from rproxy.tap.service import serve_pool
from rproxy.timing.work_queue import WorkQueue
from tests.admin.clients import Client
from tests.fakes import UNLIMITED, confirm, pool_of, registered

STATIC: Final = files("rproxy.admin").joinpath("static")
VOID: Final = {"meta", "link", "input", "rect", "path", "br"}


class Parsed(HTMLParser):
    """Texts of cells by row of the table of an id; `errors` are tags that are not closed in their order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.errors: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.table: list[list[str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.table = self.tables.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.table[-1][-1] += data.strip()


class Bench:
    def __init__(self) -> None:
        self.pool = pool_of(limits=UNLIMITED)
        served = serve_pool(self.pool, Clock())
        view = ServiceView(served.service, served.counters, ReportScore(None))
        self.history = History(lambda: 1000.0)
        self.doubts: list[dict[str, Any]] = []
        capacity, facts = Capacity(28000, lambda: 0.0), ProcessFacts("1.2", 0.0, 42)
        self.page = Page(Status(lambda: [view], Counters(), capacity, facts, lambda: self.doubts), self.history)

    def html(self) -> str:
        return b"".join(self.page.rendered()).decode()

    def tables(self) -> dict[str, list[list[str]]]:
        return Parsed(self.html()).tables


def test_the_page_is_well_formed_and_every_place_is_filled() -> None:
    html = Bench().html()
    parsed = Parsed(html)
    assert (parsed.errors, parsed.open) == ([], [])
    assert re.findall(r"\{[a-z_]+\}", html) == []
    assert html.startswith("<!doctype html>")
    assert html.rstrip().endswith("</html>")


def test_backends_and_services_are_tables_without_scripts() -> None:
    bench = Bench()
    confirm(bench.pool, registered(bench.pool, "10.0.0.1"), token=1, load=Load(cpu=97, memory=41, tcp=3))
    registered(bench.pool, "2001:db8::5")
    heads, *rows = bench.tables()["rows"]
    shown = [dict(zip(heads, row, strict=True)) for row in rows]
    assert [row["Back-end"].partition(":80")[0] for row in shown] == ["10.0.0.1", "[2001:db8::5]"]
    assert [row["State"] for row in shown] == ["up", "registered"]
    assert (shown[0]["CPU %"], shown[0]["Mem %"], shown[1]["CPU %"]) == ("97", "41", "–")  # noqa: RUF001
    assert re.fullmatch(r"\d\d:\d\d:\d\d", shown[0]["Since"])
    assert shown[1]["Since"] == "–"  # noqa: RUF001
    heads, service = bench.tables()["services"]
    named = dict(zip(heads, service, strict=True))
    assert (named["Service"], named["State"], named["In use"]) == ("default", "serving", "1 of 2")


def test_a_full_backend_is_called_full_in_its_row_and_in_its_note() -> None:
    bench = Bench()
    confirm(bench.pool, registered(bench.pool, "10.0.0.1"), token=1)
    bench.pool.limit_each(1, 0.0)
    bench.pool.choose(3.0)
    heads, row = bench.tables()["rows"]
    shown = dict(zip(heads, row, strict=True))
    assert (shown["State"], shown["Back-end"].partition(":80")[2].partition(" ")[0]) == ("full", "full")


def test_a_service_without_a_backend_says_so() -> None:
    assert Bench().tables()["services"][1][1] == "no back-end"


def test_what_others_say_cannot_become_markup() -> None:
    bench = Bench()
    bench.history.note("<i>", "<b>", "<u>", "<script>alert(1)</script>")
    bench.doubts.append({"since": 0.0, "service": "", "backend": "<x>", "kind": "<y>", "text": '"><img src=x>'})
    html = bench.html()
    assert not {"<script>", "<img", "<x>", "<u>", "<i>"} & set(re.findall(r"<[^ >]*>?", html.partition("<main>")[2]))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_the_newest_events_come_first_and_there_are_not_too_many() -> None:
    bench = Bench()
    for number in range(EVENTS_MAX + 5):
        bench.history.note("default", "10.0.0.1:80", "up", f"event {number}")
    shown = re.findall(r"event (\d+)", bench.html())
    assert shown == [str(number) for number in range(EVENTS_MAX + 4, 4, -1)]


@pytest.mark.parametrize(("doubts", "hidden"), [(0, True), (1, False)])
def test_what_looks_wrong_is_shown_only_while_something_does(doubts: int, hidden: bool) -> None:
    bench = Bench()
    doubt = {"since": 0.0, "service": "default", "backend": "10.0.0.1:80", "kind": "herding", "text": "takes too much"}
    bench.doubts += [doubt] * doubts
    (section,) = re.findall('<section id="doubts"[^>]*>', bench.html())
    assert section.endswith(" hidden>") is hidden
    assert ("10.0.0.1:80 of default" in bench.html()) is not hidden


def test_not_more_doubts_are_shown_than_can_be_read() -> None:
    bench = Bench()
    doubt = {"since": 0.0, "service": "default", "backend": "10.0.0.1:80", "kind": "herding", "text": "takes too much"}
    bench.doubts += [doubt] * (DOUBTS_MAX + 3)
    html = bench.html()
    assert html.count("takes too much") == DOUBTS_MAX
    assert "3 more: rproxy doubts" in html
    assert f"{DOUBTS_MAX + 3} doubts" in html


def test_a_large_pool_is_rendered_in_pieces_and_says_how_many_are_left_out() -> None:
    bench = Bench()
    for number in range(ROWS_MAX + 7):
        confirm(bench.pool, registered(bench.pool, f"10.0.{number // 250}.{number % 250 + 1}"), token=number)
    pieces = list(bench.page.rendered())
    assert max(map(len, pieces)) < 80_000
    html = b"".join(pieces).decode()
    assert html.count("<tr data-state") == ROWS_MAX
    assert "7 more: rproxy status" in html


# Its files


def served(path: str, *, token: bytes | None = None, given: str = "") -> tuple[HTTPStatus, str, bytes]:
    """Status, head and body of the answer to a GET; reading needs `token` if there is one."""
    clock, root, bench = Clock(), Folder(), Bench()
    work = WorkQueue(clock)
    access = Access(None if token is None else [token], clock.seconds, reads_openly=token is None)
    page = PageDocument(bench.page, lambda request: access.to_read(request) is None, work, clock.seconds)
    confirm(bench.pool, registered(bench.pool, "10.0.0.1"), token=1)
    bench.history.note("default", "10.0.0.1:80", "up", "an event")
    root.putChild(b"", page)
    root.putChild(b"static", static(work, clock.seconds))
    root.putChild(b"status.json", static(work, clock.seconds))
    site = AdminSite(root, clock, work, access=access)
    site.doStart()
    connection = site.buildProtocol(None)
    client = Client(clock, connection)
    connection.makeConnection(client)
    head, _, body = client.ask(f"GET {path} HTTP/1.0\r\n{given}\r\n".encode()).partition(b"\r\n\r\n")
    return HTTPStatus(int(head.split()[1])), head.decode().lower(), body


def test_the_page_lets_a_browser_run_and_load_only_its_own_files() -> None:
    status, head, body = served("/")
    assert status == HTTPStatus.OK
    assert f"content-security-policy: {POLICY}".lower() in head
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert "content-type: text/html; charset=utf-8" in head
    assert not re.search(rb"<[^>]+ (style|on\w+)=|<script>|<style", body)


def test_without_the_token_the_page_shows_nothing_and_its_scripts_can_ask_for_it() -> None:
    status, head, body = served("/", token=b"secret")
    assert (status, Parsed(body.decode()).errors) == (HTTPStatus.OK, [])
    assert f"content-security-policy: {POLICY}".lower() in head
    assert not re.search(rb"10\.0\.0\.1|an event|default<|1\.2 |pid 42", body)
    assert b"Reading needs the token" in body
    assert served("/static/page.js", token=b"secret")[0] == HTTPStatus.OK
    assert served("/status.json", token=b"secret")[0] == HTTPStatus.UNAUTHORIZED
    assert b"10.0.0.1" in served("/", token=b"secret", given="Authorization: Bearer secret\r\n")[2]


@pytest.mark.parametrize("path", ["//", "/static", "/static/../status.json", "/static/%2e%2e/status.json", "/?/"])
def test_no_path_beside_the_page_opens_more(path: str) -> None:
    status, _, body = served(path, token=b"secret")
    assert status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND) or b"Reading needs the token" in body


def test_every_file_that_the_page_names_is_served_with_its_type() -> None:
    pages = [file.read_text("utf-8") for file in STATIC.iterdir()]
    named = {name for text in pages for name in re.findall(r'(?:static|\.)/([\w.]+\.(?:js|css|svg))"', text)}
    assert named == {file.name for file in STATIC.iterdir()} - {"page.html"}
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for name in named:
        status, head, body = served(f"/static/{name}")
        assert (status, body) == (HTTPStatus.OK, STATIC.joinpath(name).read_bytes())
        assert f"content-type: {kinds[name.rpartition('.')[2]]}" in head


@pytest.mark.parametrize("path", ["/static/", "/static/page.html", "/static/../page.py", "/static/%2e%2e/page.py"])
def test_nothing_else_is_served(path: str) -> None:
    assert served(path)[0] == HTTPStatus.NOT_FOUND


def test_no_file_names_another_site() -> None:
    for file in STATIC.iterdir():
        found = set(re.findall(r"https?://[^\"' ]+", file.read_text("utf-8")))
        assert found <= {"http://www.w3.org/2000/svg"}, file.name


def test_scripts_and_server_count_the_same_sessions_as_failed() -> None:
    (found,) = re.findall(r"const FAILED = (\[.*?\]);", STATIC.joinpath("services.js").read_text("utf-8"))
    assert json.loads(found) == [ending.value for ending in FAILED]
