"""The commands that change something."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rproxy.cli import changes
from rproxy.cli.backend_names import Target
from rproxy.cli.client import Failure
from rproxy.cli.output import Output
from tests.cli.fake_proxy import Canned, row

Captured = pytest.CaptureFixture[str]
WEB = Target("web", "10.1.1.1:80")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes while it is slept, and only then."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))


def rows(*found: dict[str, Any]) -> dict[str, Any]:
    return {"backends": list(found)}


def test_what_the_proxy_says_is_printed(capsys: Captured) -> None:
    drain = "/api/backends/web/10.1.1.1%3A80/drain"
    client = Canned({"/api/backends": rows(row(service="web")), drain: {"done": "web/10.1.1.1:80 drains\x07"}})
    assert changes.change(client, Output(), ["10.1.1.1"], None, "drain") == [WEB]
    assert capsys.readouterr().out == "web/10.1.1.1:80 drains\\x07\n"
    assert client.asked[-1] == ("POST", drain, {})


def test_any_name_of_a_service_is_quoted(capsys: Captured) -> None:
    path = "/api/backends/a%2Fb%20%C3%A4/%5B%3A%3A1%5D%3A80/weight"
    client = Canned({"/api/backends": rows(row("::1", service="a/b ä")), path: {}})
    changes.change(client, Output(), ["[::1]:80"], None, "weight", {"value": 5})
    assert client.asked[-1] == ("POST", path, {"value": 5})
    assert capsys.readouterr().out == "a/b ä/[::1]:80: weight\n"


def test_all_are_found_before_any_is_changed() -> None:
    client = Canned({"/api/backends": rows(row(service="web"), row("10.1.1.2", service="app"))})
    with pytest.raises(Failure, match="no back-end '10"):
        changes.change(client, Output(), ["10.1.1.1", "10.1.1.9"], None, "drain")
    assert [method for method, _, _ in client.asked] == ["GET", "GET"]


def test_sessions_are_ended_one_by_one(capsys: Captured) -> None:
    client = Canned({"/api/sessions/7/kill": {"done": "session 7 has been reset"}, "/api/sessions/8/kill": {}})
    changes.kill_sessions(client, Output(), [7, 8])
    assert capsys.readouterr().out == "session 7 has been reset\nsession 8: killed\n"


def test_a_drained_back_end_is_waited_for(capsys: Captured) -> None:
    left = [rows(row(service="web", connections=number)) for number in (3, 1, 0)]
    client = Canned({"/api/backends": left})
    changes.wait_until_drained(client, Output(), [WEB], 10)
    assert capsys.readouterr() == ("web/10.1.1.1:80: no session is left\n", "")
    assert client.asked == [("GET", "/api/backends", {"service": "web"})] * 3
    assert time.monotonic() == 2 * changes.POLL_S


def test_one_that_has_gone_has_no_sessions(capsys: Captured) -> None:
    changes.wait_until_drained(Canned({"/api/backends": rows(row("10.1.1.2"))}), Output(), [WEB], 10)
    assert "no session is left" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "text"), [(1, "1 session left"), (3, "3 sessions left")])
def test_a_wait_has_an_end(number: int, text: str) -> None:
    client = Canned({"/api/backends": rows(row(service="web", connections=number))})
    with pytest.raises(Failure, match=rf"web/10\.1\.1\.1:80: {text} after 2\.5 s"):
        changes.wait_until_drained(client, Output(), [WEB], 2.5)
    assert time.monotonic() == 2.5


def test_a_ready_back_end_is_waited_for_until_it_may_get_clients(capsys: Captured) -> None:
    states = [
        rows(),
        rows(row(service="web", state="down", eligible=False)),
        rows(row(service="web", state="up", eligible=True)),
    ]
    changes.wait_until_usable(Canned({"/api/backends": states}), Output(), [WEB], 10)
    assert capsys.readouterr().out == "web/10.1.1.1:80: it may get clients\n"
    client = Canned({"/api/backends": rows(row(service="web", state="down", eligible=False))})
    with pytest.raises(Failure, match="it is down after 3 s"):
        changes.wait_until_usable(client, Output(), [WEB], 3)
    with pytest.raises(Failure, match="it is not there yet after 3 s"):
        changes.wait_until_usable(Canned({"/api/backends": rows()}), Output(), [WEB], 3)
