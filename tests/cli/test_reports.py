"""Lists of sessions, events, doubts and explanations."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from rproxy.cli import reports
from rproxy.cli.client import Failure
from rproxy.cli.output import Output
from tests.cli.fake_proxy import Canned, row

Captured = pytest.CaptureFixture[str]


def event(number: int, **what: Any) -> dict[str, Any]:
    return {
        "id": number,
        "time": 1_700_000_000.0,
        "service": "web",
        "backend": "10.1.1.1:80",
        "kind": "down",
        "text": f"number {number}",
        **what,
    }


def session(number: int, **what: Any) -> dict[str, Any]:
    return {
        "id": number,
        "service": "web",
        "listener": "*:80",
        "client": "10.9.9.9:4711",
        "backend": "10.1.1.1:80",
        "state": "connected",
        "started": 1_700_000_000.0,
        "age": 12.0,
        "up": 100,
        "down": 2048,
        **what,
    }


def words(captured: Captured) -> list[list[str]]:
    return [line.split() for line in captured.readouterr().out.splitlines()]


def test_sessions_are_a_table(capsys: Captured) -> None:
    rows = [session(7), session(8, backend=None, state="waiting", client="[2001:db8::1]:5")]
    client = Canned({"/api/sessions": {"sessions": rows, "total": 2, "shown": 2}})
    reports.sessions(client, Output(), {"client": "10.9.0.0/16"})
    assert words(capsys) == [
        ["SESSION", "SERVICE", "LISTENER", "CLIENT", "BACKEND", "STATE", "AGE", "UP", "DOWN"],
        ["7", "web", "*:80", "10.9.9.9:4711", "10.1.1.1:80", "connected", "12s", "100", "2.0K"],
        ["8", "web", "*:80", "[2001:db8::1]:5", "-", "waiting", "12s", "100", "2.0K"],
    ]
    assert client.asked == [("GET", "/api/sessions", {"client": "10.9.0.0/16"})]


def test_people_are_told_that_there_are_more_sessions(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Output, "width", 60)
    reports.sessions(Canned({"/api/sessions": {"sessions": [session(7)], "total": 12}}), Output(), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 of 12 sessions: --limit N shows more"
    assert max(map(len, lines)) <= 60


def test_events_are_a_table_and_a_text_for_people_is_wrapped(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [event(1, text="a long text " * 9), event(2, service="", backend="", kind="doubt\x1b[31m")]
    client = Canned({"/api/events": {"events": rows, "last": 9}})
    assert reports.events(client, {}, reports.EventTable(Output()).show) == 9
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("a long text a long text")
    assert lines[2].split()[2:] == ["-", "-", "doubt\\x1b[31m", "number", "2"]
    monkeypatch.setattr(Output, "width", 40)
    rows[1]["kind"] = "doubt"
    reports.events(client, {}, reports.EventTable(Output()).show)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert " ".join(" ".join(lines).split()).count("a long text") == 9


class Over(Exception):
    """Ends what would go on for ever."""


def followed(client: Canned, after: int = 5, show: reports.ShowEvents | None = None) -> None:
    turns = iter([None, None, None])

    def sleep(seconds: float) -> None:
        assert seconds == reports.FOLLOW_S
        if next(turns, Over) is Over:
            raise Over

    show = show or partial(reports.show_events_as_json, Output())
    with pytest.raises(Over):
        reports.follow(client, {"service": "web", "limit": 3}, after, show, sleep)


def test_later_events_are_printed_as_they_come(capsys: Captured) -> None:
    answers = [
        {"events": [event(6), event(7)], "last": 7},
        {"events": [], "last": 7},
        {"events": [event(8)], "last": 8},
    ]
    client = Canned({"/api/events": answers})
    followed(client)
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [6, 7, 8]
    assert [query["after"] for _, _, query in client.asked] == [5, 7, 7]
    assert client.asked[0][2] == {"service": "web", "limit": None, "after": 5}


def test_a_proxy_that_goes_away_is_waited_for_and_its_successors_events_are_all_printed(capsys: Captured) -> None:
    answers = [Failure("gone"), {"events": [], "last": 2}, {"events": [event(1), event(2)], "last": 2}]
    followed(Canned({"/api/events": [*answers, Failure("gone")]}))
    captured = capsys.readouterr()
    assert [json.loads(line)["id"] for line in captured.out.splitlines()] == [1, 2]
    assert captured.err == "rproxy events: gone; waiting for it\n" * 2


def test_one_that_stays_away_is_said_to_be_once(capsys: Captured) -> None:
    followed(Canned({"/api/events": Failure("gone")}), show=reports.EventTable(Output()).show)
    assert capsys.readouterr() == ("", "rproxy events: gone; waiting for it\n")


def test_later_events_are_below_the_earlier_ones(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (None, 80):
        monkeypatch.setattr(Output, "width", width)
        show = reports.EventTable(Output()).show
        show([event(1)])
        show([event(2, service="", backend="")])
        show([event(3, kind="a-long-word")])
        show([event(4)])
        heading, *lines = capsys.readouterr().out.splitlines()
        assert [line.index("number") - heading.index("EVENT") for line in lines] == [7, 7, 13, 13]
        assert [line.split()[-1] for line in lines] == ["1", "2", "3", "4"]


def test_doubts_are_a_table(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    doubt = {"since": 1_700_000_000.0, "service": "web", "backend": "", "kind": "herding", "text": "takes too much"}
    client = Canned({"/api/doubts": {"doubts": [doubt]}})
    reports.doubts(client, Output())
    assert words(capsys)[1][2:] == ["web", "-", "herding", "takes", "too", "much"]
    client.documents["/api/doubts"] = {"doubts": []}
    reports.doubts(client, Output())
    assert len(words(capsys)) == 1
    monkeypatch.setattr(Output, "width", 80)
    reports.doubts(client, Output())
    assert capsys.readouterr().out == "nothing looks wrong\n"


def test_a_back_end_is_explained_for_every_service(capsys: Captured) -> None:
    found = [
        {"service": "web", "backend": "10.1.1.1:80", "known": True, "eligible": False, "text": "draining since 12:00"},
        {"service": "app", "backend": "10.1.1.1:80", "known": False, "eligible": False, "text": "not registered"},
    ]
    client = Canned({"/api/explain": {"explanations": found}, "/api/backends": {"backends": [row(service="web")]}})
    reports.explain(client, Output(), "10.1.1.1:80", None)
    assert capsys.readouterr().out == "web/10.1.1.1:80: draining since 12:00\napp/10.1.1.1:80: not registered\n"
    assert client.asked == [("GET", "/api/explain", {"backend": "10.1.1.1:80", "service": None})]
    client.asked.clear()
    reports.explain(client, Output(), "10.1.1.1", None)
    assert client.asked[-1] == ("GET", "/api/explain", {"backend": "10.1.1.1:80", "service": "web"})


def test_json_is_printed_as_it_comes(capsys: Captured) -> None:
    client = Canned({"/x": {"a": [1, None]}})
    reports.as_json(client, Output(), "/x", {"limit": 5})
    assert capsys.readouterr().out == '{"a": [1, null]}\n'
    assert client.asked == [("GET", "/x", {"limit": 5})]
