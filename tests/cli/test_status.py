"""The tables of services and back-ends."""

from __future__ import annotations

import pytest

from rproxy.cli import parsers
from rproxy.cli.client import Failure
from rproxy.cli.columns import BACKENDS
from rproxy.cli.status import Selection, backends_table, doubts, heading, ordered, services_table
from tests.cli.fake_proxy import PLACE, row, service, status


def shown(rows: list[dict[str, object]], width: int | None) -> list[str]:
    laid_out = backends_table(rows, width)
    return [line.plain.rstrip() for line in [laid_out.heading(), *laid_out.lines()]]


ROWS = [
    row("10.1.1.10", 80, state="down", cpu=None, connections=0, since=12.0, passed_over="its last probe was lost"),
    row("10.1.1.9", 80, cpu=96, connections=12, max_connections=50, full=True),
    row("10.1.1.9", 8080, cpu=3, connections=1, weight=50, loss=0.03, said="50%", state="suspect"),
]


def test_an_operator_sees_at_once_which_is_down_full_weighed_or_loaded() -> None:
    assert shown(ROWS, 80) == [
        "BACKEND        STATE    SINCE   SESS  SCORE  CPU  MEM  NOTE",
        "10.1.1.10:80   down       12s      0  0.123    -  34%  its last probe was lost",
        "10.1.1.9:80    up,full  1h02m  12/50  0.123  96%  34%  -",
        "10.1.1.9:8080  suspect  1h02m      1  0.123   3%  34%  agent-check: 50%; weight…",
    ]
    assert shown([row("10.1.1.1")], 80) == [
        "BACKEND      STATE  SINCE  SESS  TOTAL  SCORE  CPU  MEM   RTT  LOSS  WGHT    UP",
        "10.1.1.1:80  up     1h02m     7   1234  0.123  12%  34%  0.41    0%   100  2.0K",
    ]


def test_it_is_said_who_drains_a_back_end() -> None:
    rows = [row(state="draining", administration=each) for each in ("drain", "ready")]
    assert [line.split("  ")[-1] for line in shown(rows, 120)[1:]] == ["by an operator", "by its agent"]
    rows = [row(state="draining", said="drain"), row(state="down", administration="drain")]
    assert [line.split("  ")[-1] for line in shown(rows, 120)[1:]] == ["agent-check: drain", "drained by an operator"]


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 100, 120, 150, 200, 1000])
def test_every_width_keeps_what_matters_most(width: int) -> None:
    for line in shown(ROWS, width):
        assert len(line) <= max(width, 31)
    heading, first, *_ = shown(ROWS, width)
    assert set(heading.split()) >= {"BACKEND", "STATE", "SESS"}
    assert first.split()[:2] == ["10.1.1.10:80", "down"]


def test_for_programs_every_row_has_every_column() -> None:
    heading, *lines = shown(ROWS, None)
    assert len(heading.split()) == len(BACKENDS) - 1  # but rates
    assert [line.split()[:5] for line in lines] == [
        ["default", "10.1.1.10:80", "down", "12s", "0"],
        ["default", "10.1.1.9:80", "up,full", "1h02m", "12/50"],
        ["default", "10.1.1.9:8080", "suspect", "1h02m", "1"],
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("backend", ["10.1.1.9:80", "10.1.1.9:8080", "10.1.1.10:80"]),
        ("cpu", ["10.1.1.9:80", "10.1.1.9:8080", "10.1.1.10:80"]),
        ("state", ["10.1.1.10:80", "10.1.1.9:8080", "10.1.1.9:80"]),
        ("since", ["10.1.1.9:80", "10.1.1.9:8080", "10.1.1.10:80"]),
    ],
)
def test_rows_are_sorted_by_a_column_and_those_without_its_figure_are_last(key: str, expected: list[str]) -> None:
    assert [f"{each['address']}:{each['port']}" for each in ordered(ROWS, key)] == expected


def test_the_other_way_round_those_without_a_figure_are_last_too() -> None:
    assert [each["cpu"] for each in ordered(ROWS, "cpu", backwards=True)] == [3, 96, None]


def test_rows_are_sorted_by_what_is_no_figure_too() -> None:
    """The proxy may be of another version."""
    for column in BACKENDS:
        assert len(ordered([*ROWS, {}, {"address": 5, "state": [], "cpu": "x"}], column.key)) == 5
        assert len(shown([*ROWS, {}, {"address": 5, "state": [], "cpu": "x", "service": {}, "weight": None}], 80)) == 6


def test_the_keys_that_can_be_sorted_by_are_those_of_the_columns() -> None:
    assert set(parsers.SORTS) == {column.key for column in BACKENDS if not column.is_text} - {"rate"}


def test_back_ends_are_selected_by_service_state_and_name() -> None:
    document = status(row("10.1.1.1", service="a"), row("10.1.1.2", service="b", state="down"))

    def names(selection: Selection) -> list[object]:
        return [each["address"] for each in selection.backends(document, PLACE)]

    assert names(Selection()) == ["10.1.1.1", "10.1.1.2"]
    assert names(Selection("a")) == names(Selection(states=("up",))) == names(Selection(text="1.1.1")) == ["10.1.1.1"]
    assert names(Selection("a", ("down",))) == []


def test_back_ends_are_in_the_order_of_services_and_addresses() -> None:
    rows = [row("10.1.1.10", service="b"), row("10.1.1.9", service="b"), row("10.1.1.1", service="a"), row(service="c")]
    document = status(*rows, services=(service("b"), service("a")))

    def names(selection: Selection) -> list[tuple[object, object]]:
        return [(each["service"], each["address"]) for each in selection.backends(document, PLACE)]

    expected = [("b", "10.1.1.9"), ("b", "10.1.1.10"), ("a", "10.1.1.1"), ("c", "10.1.1.1")]
    assert names(Selection()) == names(Selection(sort="cpu")) == expected
    assert names(Selection(backwards=True)) == expected[::-1]


def test_a_document_without_rows_is_no_proxys() -> None:
    for document in ({}, {"backends": 5}, {"backends": [1]}):
        with pytest.raises(Failure, match="is it an rproxy"):
            Selection().backends(document, PLACE)


def test_the_heading_tells_which_proxy_it_is() -> None:
    said = heading(status(row(), started=0), PLACE).plain
    assert said.startswith("rproxy 0.1.0, at http://127.0.0.1:8404, pid 4711, up ")
    assert said.endswith(", 7 of 9828 sessions")
    assert heading({}, PLACE).plain == "rproxy, at http://127.0.0.1:8404"


def test_every_doubt_is_a_line() -> None:
    found = [
        {"service": "web", "backend": "10.1.1.1:80", "kind": "herding", "text": "takes 4 times its share"},
        {"service": "", "backend": "", "text": "the wall clock has jumped"},
        "nonsense",
    ]
    assert [line.plain for line in doubts(status(doubts=found))] == [
        "doubt: web/10.1.1.1:80: takes 4 times its share",
        "doubt: the wall clock has jumped",
    ]
    assert doubts({}) == doubts({"doubts": None}) == []


def test_services_say_what_is_wrong_with_them() -> None:
    rows = [service("web", panic=True, waiting=3), service("app", eligible=0, leaving=True), service("ok", full=1), {}]
    lines = [line.plain.rstrip() for line in services_table(rows, None).lines()]
    assert [line.split()[:8] for line in lines[:3]] == [
        ["web", "1/2", "7", "3", "42", "3", "10", "20"],
        ["app", "0/2", "7", "0", "42", "3", "10", "20"],
        ["ok", "1/2", "7", "0", "42", "3", "10", "20"],
    ]
    assert lines[0].endswith("panic: less than half of its back-ends are up, so all are used")
    assert lines[1].endswith("no back-end can be used; leaving: the configuration no longer names it")
    assert lines[2].endswith("full back-ends: 1")
    assert lines[3].split() == ["-", "-/-", "-", "-", "-", "-", "-", "-", "-"]
