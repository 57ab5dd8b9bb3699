"""The last choices of back-ends."""

from __future__ import annotations

from typing import Any

import pytest

from rproxy.cli import choices
from rproxy.cli.output import Output
from tests.cli.fake_proxy import Canned

Captured = pytest.CaptureFixture[str]


def choice(number: int, service: str = "web", **what: Any) -> dict[str, Any]:
    return {
        "id": number,
        "time": 1_700_000_000.0 + number,
        "service": service,
        "session": number,
        "client": f"10.9.9.{number}:4711",
        "chosen": "10.1.1.2:80",
        "why": "its value, 0.5, is the lowest",
        "rule": "lowest",
        "candidates": [
            {"backend": "10.1.1.1:80", "value": 0.75, "terms": {"rate": 2.0, "CPU factor": 1.5}, "report_age": 0.045},
            {"backend": "10.1.1.2:80", "value": 0.5, "terms": {"rate": 1.0}, "report_age": None},
        ],
        "others": 7,
        "left_out": {"tried": ["10.1.1.3:80"], "full": 2, "ineligible": 0, "others": 7},
        **what,
    }


def proxy(*rows: dict[str, Any], unrecorded: int = 0) -> Canned:
    services = {"web": {"kept": len(rows), "unrecorded": unrecorded}, "app": {"kept": 0, "unrecorded": 0}}
    return Canned({"/api/choices": {"choices": list(rows), "services": services}})


def test_each_is_a_line(capsys: Captured) -> None:
    client = proxy(choice(2), choice(1, chosen=None, why="none may be used\x1b[31m", candidates=[]), unrecorded=12)
    choices.show(client, Output(), {"limit": 5}, whole=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["TIME", "SERVICE", "CLIENT", "CHOSEN", "RULE", "WHY"]
    assert lines[1][2:6] == ["web", "10.9.9.2:4711", "10.1.1.2:80", "lowest"]
    assert lines[2][2:] == ["web", "10.9.9.1:4711", "-", "lowest", "none", "may", "be", "used\\x1b[31m"]
    assert len(lines) == 3
    assert client.asked == [("GET", "/api/choices", {"limit": 5})]


def test_people_are_told_how_many_were_not_recorded(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Output, "width", 60)
    choices.show(proxy(choice(2), unrecorded=12), Output(), {}, whole=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "not recorded, under load: 12 choices"
    assert max(map(len, lines)) <= 60


def test_each_may_be_shown_with_all_that_were_compared(capsys: Captured) -> None:
    choices.show(proxy(choice(2), choice(1, candidates="none")), Output(), {}, whole=True)
    first, why, heading, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith(", web: 10.9.9.2:4711 got 10.1.1.2:80")
    assert why == "its value, 0.5, is the lowest"
    assert heading.split() == ["BACKEND", "VALUE", "AGE", "RATE", "CPU", "FACTOR"]
    assert [line.split() for line in lines[:2]] == [
        ["10.1.1.1:80", "0.75", "45ms", "2", "1.5"],
        ["10.1.1.2:80", "0.5", "-", "1", "-"],
    ]
    others = "not listed: 7 more that are worse, or were not drawn, 2 full, tried in vain: 10.1.1.3:80"
    assert lines[2] == others
    assert lines[4].endswith("10.9.9.1:4711 got 10.1.1.2:80")
    assert lines[6] == others


def test_the_last_of_each_service_is_shown(capsys: Captured) -> None:
    services = {"web": {"kept": 2}, "app": {"kept": 1}}
    answers = [choice(3, chosen=None)], [choice(3, chosen=None)], [choice(1, "app")]
    client = Canned({"/api/choices": [{"choices": rows, "services": services} for rows in answers]})
    choices.show_last(client, Output(), None)
    assert [query["service"] for _, _, query in client.asked] == [None, "web", "app"]
    assert {query["limit"] for _, _, query in client.asked} == {1}
    shown = [line for line in capsys.readouterr().out.splitlines() if " got " in line]
    assert [line.partition(", ")[2] for line in shown] == [
        "web: 10.9.9.3:4711 got no back-end",
        "app: 10.9.9.1:4711 got 10.1.1.2:80",
    ]


def test_without_any_it_is_said(capsys: Captured) -> None:
    choices.show_last(proxy(), Output(), "web")
    assert capsys.readouterr().out == "no choice has been recorded\n"


def test_a_proxy_of_another_version_may_have_others(capsys: Captured) -> None:
    rows: list[dict[str, Any]] = [
        {},
        {"candidates": [{}, 5, {"terms": []}], "left_out": [], "others": "x", "time": "y"},
    ]
    for whole in (False, True):
        choices.show(Canned({"/api/choices": {"choices": rows, "services": {"x": 5}}}), Output(), {}, whole=whole)
    assert "got no back-end" in capsys.readouterr().out
