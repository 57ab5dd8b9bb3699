"""The screen of a watched table, and its keys."""

from __future__ import annotations

from typing import Any

import pytest

from rproxy.cli.client import Failure
from rproxy.cli.status import Selection
from rproxy.cli.view import SORTS, View
from tests.cli.fake_proxy import PLACE, row, service, status


def many(number: int = 100) -> list[dict[str, Any]]:
    return [row(f"10.1.1.{each}", cpu=each % 50, connections=each) for each in range(number)]


def watching(*rows: dict[str, Any], **how: Any) -> View:
    view = View(PLACE, Selection())
    view.take(status(*rows, **how), 10.0)
    return view


def screen(view: View, width: int = 80, height: int = 24, at: float = 10.0) -> list[str]:
    return [line.plain.rstrip() for line in view.lines(width, height, at)]


def names(view: View, **how: int) -> list[str]:
    return [line.split()[0] for line in screen(view, **how) if line.startswith("10.1.")]


def pressed(view: View, *keys: str) -> list[str]:
    """The first back-ends then."""
    screen(view)
    for key in keys:
        assert view.press(key)
    return names(view)[:2]


def test_the_screen_has_services_back_ends_and_the_keys() -> None:
    lines = screen(watching(row("10.1.1.1"), row("10.1.1.2")))
    assert len(lines) == 24
    assert lines[0].startswith("rproxy 0.1.0, at http://127.0.0.1:8404")
    assert lines[2].startswith("default  1/2        7")
    assert [line.split()[0] for line in lines[4:7]] == ["BACKEND", "10.1.1.1:80", "10.1.1.2:80"]
    assert lines[-1].startswith("q quit  < > sort")


@pytest.mark.parametrize("width", [1, 10, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 24, 200])
@pytest.mark.parametrize("number", [0, 1, 1000])
def test_it_fits_any_terminal(width: int, height: int, number: int) -> None:
    view = watching(*many(number), services=(*(service(f"s{each}") for each in range(20)),), doubts=[{"text": "x"}] * 9)
    view.failure = "gone"
    assert len(view.lines(width, height, 10.0)) <= height
    for key in ("page-down", "end", "page-up", "home", "down", "up"):
        assert view.press(key)
        assert len(view.lines(width, height, 10.0)) <= height


def test_rows_are_scrolled_and_no_further_than_there_are() -> None:
    view = watching(*many())
    assert pressed(view) == ["10.1.1.0:80", "10.1.1.1:80"]
    page = len(names(view))
    assert pressed(view, "down", "j") == ["10.1.1.2:80", "10.1.1.3:80"]
    assert pressed(view, "up", "k", "k", "up") == ["10.1.1.0:80", "10.1.1.1:80"]
    assert pressed(view, "page-down")[0] == f"10.1.1.{page}:80"
    assert pressed(view, "page-up", "page-up")[0] == "10.1.1.0:80"
    assert pressed(view, "end", "down", " ")[0] == f"10.1.1.{100 - page}:80"
    assert screen(view)[-1].startswith(f"{101 - page}-100 of 100  q quit")
    assert pressed(view, "home")[0] == "10.1.1.0:80"


def test_rows_that_have_gone_leave_no_empty_screen() -> None:
    view = watching(*many())
    pressed(view, "end")
    view.take(status(*many(30)), 12.0)
    assert names(view)[-1] == "10.1.1.29:80"


def test_keys_sort() -> None:
    view = watching(*many(49))
    assert pressed(view, "c")[0] == "10.1.1.48:80"
    assert pressed(view, "r")[0] == "10.1.1.0:80"
    assert pressed(view, "s")[0] == "10.1.1.48:80"
    assert pressed(view, "a")[0] == "10.1.1.0:80"
    for key in SORTS:
        assert view.press(key)
        assert view.selection.sort == SORTS[key]
        assert len(screen(view)) == 24


def test_arrows_sort_by_the_next_column_round_and_round() -> None:
    view = watching(row())
    seen = []
    for _ in range(30):
        pressed(view, ">")
        seen.append(view.selection.sort)
    assert seen[:3] == ["state", "since", "sessions"]
    assert "backend" in seen[3:]
    before = view.selection.sort
    pressed(view, "right", "left", "<", ">")
    assert view.selection.sort == before


def test_the_column_that_they_are_sorted_by_is_shown_whatever_fits() -> None:
    view = View(PLACE, Selection(sort="tcp"))
    view.take(status(row(), row(service="web")), 1.0)
    assert "TCP" in "".join(screen(view, width=40))
    pressed(view, ">")
    assert "WGHT" in "".join(screen(view, width=40))
    assert "TCP" not in "".join(screen(view, width=40))
    view = View(PLACE, Selection(sort="service"))
    view.take(status(row()), 1.0)
    pressed(view, ">")
    assert view.selection.sort == "backend"  # there is one service


def test_a_filter_is_typed() -> None:
    view = watching(*many())
    assert pressed(view, "/", *"1.1.9q") == []
    assert "filter: 1.1.9q_" in screen(view)[-1]
    assert pressed(view, "backspace") == ["10.1.1.9:80", "10.1.1.90:80"]
    assert pressed(view, "page-down", "enter") == ["10.1.1.9:80", "10.1.1.90:80"]
    assert "filter: 1.1.9  " in screen(view)[-1]
    assert pressed(view, "escape")[1] == "10.1.1.1:80"
    pressed(view, "/", "9", "escape")
    assert view.selection.text == ""


def test_q_quits() -> None:
    view = watching()
    assert not view.press("q")
    assert not view.press("Q")
    assert view.press("x")


def test_new_sessions_are_a_rate() -> None:
    view = watching(row("10.1.1.1", total=100), row("10.1.1.2", total=100))
    assert "NEW/S" not in "".join(screen(view, width=100))
    view.take(status(row("10.1.1.1", total=125), row("10.1.1.2", total=5), row("10.1.1.3")), 12.5)
    heading, *lines = screen(view, width=100)[4:8]
    column = heading.index("NEW/S")
    assert [line[column : column + 5].strip() for line in lines] == ["10.0", "-", "-"]


def test_a_proxy_that_has_gone_is_said_above_what_it_was() -> None:
    view = watching(row("10.1.1.1"))
    view.failure = "http://127.0.0.1:8404: Connection refused"
    lines = screen(view, at=22.0)
    assert lines[1] == "as it was 12s ago; http://127.0.0.1:8404: Connection refused"
    assert names(view) == ["10.1.1.1:80"]
    view.take(status(row("10.1.1.2")), 30.0)
    assert "ago" not in "".join(screen(view))


def test_an_answer_that_is_none_changes_nothing() -> None:
    view = watching(row("10.1.1.1"))
    documents: list[dict[str, Any]] = [{}, {"backends": []}, {"backends": [], "services": 5}]
    for broken in documents:
        with pytest.raises(Failure):
            view.take(broken, 12.0)
    assert names(view) == ["10.1.1.1:80"]


def test_doubts_are_shown_and_the_rest_counted() -> None:
    lines = screen(watching(row(), doubts=[{"text": f"number {each}"} for each in range(5)]))
    assert lines[-4:-1] == ["doubt: number 0", "doubt: number 1", "doubt: number 2"]
    assert lines[-1].startswith("2 more doubts  q quit")
