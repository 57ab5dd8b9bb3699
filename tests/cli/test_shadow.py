"""What a shadow would have done, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from rproxy.cli import shadow
from rproxy.cli.client import Failure
from rproxy.cli.output import Output
from tests.cli.fake_proxy import Canned

Captured = pytest.CaptureFixture[str]


def policy(name: str, most: float) -> dict[str, Any]:
    figures = {"max": most, "deviation": most / 4}
    return {
        "policy": name,
        "sessions": {"now": {"mean": 2.0, **figures}, "minute": figures, "all": figures},
        "choices": {"minute": {"mean": 2.0, **figures}, "all": {"mean": 2.0, **figures}},
    }


def service(name: str, **what: Any) -> dict[str, Any]:
    share = {"sessions": 4, "choices": 70, "choices_minute": 7}
    return {
        "service": name,
        "choices": 100,
        "differed": 60,
        "unplaced": 0,
        "failures": 0,
        "minute": {"choices": 10, "differed": 5},
        "acting": policy("report", 4.0),
        "shadow": policy("least-connections", 3.0),
        "backends": [
            {
                "backend": "10.1.1.1:80",
                "weight": 100,
                "compared": True,
                "acting": share,
                "shadow": {**share, "sessions": 2},
            }
        ],
        **what,
    }


def shown(captured: Captured, *services: dict[str, Any], name: str | None = None) -> list[list[str]]:
    shadow.show(Canned({"/api/shadow": {"services": list(services)}}), Output(), name)
    return [line.split() for line in captured.readouterr().out.splitlines()]


def test_both_policies_and_every_back_end_are_shown(capsys: Captured) -> None:
    title, heads, acting, other, blank, columns, backend = shown(capsys, service("web"))
    assert " ".join(title) == "web: 60 of 100 choices differ (60%), 5 of 10 choices differ (50%) in the last minute"
    assert heads[:4] == ["ROLE", "POLICY", "MOST", "NOW"]
    assert acting == ["acting", "report", "4", "1", "4", "1", "4", "1", "1"]
    assert other == ["shadow", "least-connections", "3", "0.75", "3", "0.75", "3", "0.75", "0.75"]
    assert blank == []
    assert columns[:4] == ["BACKEND", "WGHT", "SESS", "SHADOW"]
    assert backend == ["10.1.1.1:80", "100", "4", "2", "70", "70", "7", "7"]


def test_what_a_shadow_failed_at_is_said(capsys: Captured) -> None:
    lines = shown(capsys, service("web", unplaced=3, failures=2))
    assert [" ".join(line) for line in lines[1:3]] == [
        "the shadow had no back-end for 3 clients",
        "the shadow failed 2 times: the log tells how",
    ]


def test_one_service_of_several(capsys: Captured) -> None:
    both = service("web"), service("db")
    assert [line[0] for line in shown(capsys, *both) if line and "choices" in line] == ["web:", "db:"]
    assert [line[0] for line in shown(capsys, *both, name="db") if "choices" in line] == ["db:"]
    with pytest.raises(Failure, match="no service of the name 'mail' has a shadow policy"):
        shown(capsys, *both, name="mail")


@pytest.mark.parametrize("broken", [{"acting": None}, {"minute": 7, "choices": "x"}, {"shadow": {"sessions": [1]}}])
def test_what_a_document_lacks_is_left_out(capsys: Captured, broken: dict[str, Any]) -> None:
    assert len(shown(capsys, service("web", **broken))) == 7


def test_without_a_shadow_programs_read_nothing(capsys: Captured) -> None:
    assert shown(capsys) == []
    with pytest.raises(Failure, match="no list of backends"):
        shown(capsys, service("web", backends=None))
