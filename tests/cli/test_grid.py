"""Tables: what is shown in how many columns of a terminal."""

from __future__ import annotations

from typing import Final

import pytest

from rproxy.cli.grid import Column, Row, Table, table

COLUMNS: Final = (
    Column("name", "NAME", lambda row: row["name"]),
    Column("figure", "FIGURE", lambda row: row["figure"], 1, right=True),
    Column("rare", "RARE", lambda row: row.get("rare", ""), 2),
    Column("text", "TEXT", lambda row: row["text"], 3, is_text=True),
)
ROWS: Final[list[Row]] = [
    {"name": "one", "figure": "1", "text": "short"},
    {"name": "twelve", "figure": "1234567", "text": "a text that is rather longer than the others are", "rare": "x"},
]


def lines(shown: Table) -> list[str]:
    return [line.plain for line in [shown.heading(), *shown.lines()]]


def test_for_programs_every_column_is_whole_and_none_is_empty() -> None:
    assert lines(table(COLUMNS, ROWS, None)) == [
        "NAME     FIGURE  RARE  TEXT",
        "one           1  -     short",
        "twelve  1234567  x     a text that is rather longer than the others are",
    ]


def test_on_a_terminal_what_does_not_fit_is_cut_off_or_left_out() -> None:
    assert lines(table(COLUMNS, ROWS, 49))[2] == "twelve  1234567  x     a text that is rather lon…"
    assert lines(table(COLUMNS, ROWS, 46)) == ["NAME     FIGURE  RARE", "one           1  -", "twelve  1234567  x"]
    assert lines(table(COLUMNS, ROWS, 20)) == ["NAME     FIGURE", "one           1", "twelve  1234567"]
    assert lines(table(COLUMNS, ROWS, 10)) == ["NAME", "one", "twelve"]
    assert lines(table(COLUMNS, ROWS, 1)) == ["NAME", "one", "twelve"]


def test_a_column_that_says_nothing_is_left_out_on_a_terminal() -> None:
    assert lines(table(COLUMNS, ROWS[:1], 80)) == ["NAME  FIGURE  TEXT", "one        1  short"]


def test_without_rows_there_is_a_heading() -> None:
    assert lines(table(COLUMNS, [], 80)) == ["NAME  FIGURE  RARE  TEXT"]


def test_a_text_goes_on_in_further_lines() -> None:
    assert lines(table(COLUMNS, ROWS, 50, wrapped=True))[2].splitlines() == [
        "twelve  1234567  x     a text that is rather",
        "                       longer than the others are",
    ]


def test_a_text_that_has_no_room_beside_its_row_is_below_it() -> None:
    shown = lines(table((COLUMNS[0], Column("text", "TEXT", COLUMNS[3].cell, is_text=True)), ROWS, 26, wrapped=True))
    assert shown[1].splitlines() == ["one", "    short"]
    assert shown[2].splitlines() == ["twelve", "    a text that is rather", "    longer than the others", "    are"]


@pytest.mark.parametrize("width", range(1, 90, 7))
def test_no_line_of_a_wrapped_table_is_longer_than_it_must_be(width: int) -> None:
    for line in "\n".join(lines(table(COLUMNS, ROWS, width, wrapped=True))).splitlines():
        assert len(line.rstrip()) <= max(width, 16)


def test_wide_characters_take_two_columns() -> None:
    rows = [{"name": "日本", "figure": "1", "text": "x"}, {"name": "abcd", "figure": "2", "text": "y"}]
    assert lines(table(COLUMNS, rows, 80))[1:] == ["日本       1  x", "abcd       2  y"]


def test_each_cell_has_the_style_of_its_row() -> None:
    columns = (Column("name", "NAME", lambda row: row["name"], style=lambda row: "red" if "b" in row["name"] else ""),)
    styles = [
        [span.style for span in line.spans] for line in table(columns, [{"name": "a"}, {"name": "b"}], 80).lines()
    ]
    assert styles == [[], ["red"]]


def test_the_column_that_rows_are_sorted_by_is_marked() -> None:
    heading = table(COLUMNS, ROWS, None).heading("figure")
    assert [heading.plain[span.start : span.end] for span in heading.spans if "reverse" in str(span.style)] == [
        "FIGURE"
    ]
