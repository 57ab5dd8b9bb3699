"""Figures and texts as operators read them."""

from __future__ import annotations

import time
from math import inf, nan

import pytest

from rproxy.cli import figures


@pytest.mark.parametrize(
    ("written", "value", "expected"),
    [
        (figures.count, 12345, "12345"),
        (figures.count, 3.0, "3"),
        (figures.percent, 96, "96%"),
        (figures.share, 0.0, "0%"),
        (figures.share, 0.012, "1.2%"),
        (figures.share, 0.5, "50%"),
        (figures.milliseconds, 0.412, "0.41"),
        (figures.milliseconds, 12.34, "12.3"),
        (figures.milliseconds, 1234.5, "1234"),
        (figures.value, 0.1234567, "0.123"),
        (figures.value, 123456.0, "1.23e+05"),
        (figures.size, 0, "0"),
        (figures.size, 1023, "1023"),
        (figures.size, 1024, "1.0K"),
        (figures.size, 3_500_000, "3.3M"),
        (figures.size, 1023 * 1024, "1.0M"),
        (figures.size, 200 * 2**30, "200G"),
        (figures.size, 2**80, "1048576E"),
        (figures.age, 0.045, "45ms"),
        (figures.age, -1, "0ms"),
        (figures.age, 0.9996, "1.0s"),
        (figures.age, 9.96, "9s"),
        (figures.age, 59.9, "59s"),
        (figures.age, 187, "3m07s"),
        (figures.age, 7500, "2h05m"),
        (figures.age, 273_600, "3d04h"),
    ],
)
def test_a_figure_is_written_with_its_unit(written: object, value: float, expected: str) -> None:
    assert callable(written)
    assert written(value) == expected


@pytest.mark.parametrize("value", [None, nan, inf, -inf, True, "12", [], {}])
def test_what_is_no_figure_is_a_dash(value: object) -> None:
    for written in (figures.count, figures.percent, figures.share, figures.milliseconds, figures.value, figures.size):
        assert written(value) == "-"
    assert (figures.age(value), figures.moment(value, 0.0), figures.number_of(value)) == ("-", "-", None)


@pytest.mark.parametrize("at", [0.0, 1e300, -1e300, 1e17])
def test_any_time_can_be_written(at: float) -> None:
    assert figures.moment(at, at)


def test_a_moment_has_its_date_unless_it_is_recent() -> None:
    now = time.mktime((2026, 11, 26, 11, 30, 0, 0, 0, -1))
    assert figures.moment(now - 65, now) == "11:28:55"
    assert figures.moment(now - 86400, now) == "2026-11-25 11:30:00"
    assert figures.moment(now + 86400, now) == "2026-11-27 11:30:00"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", "plain text"),
        ("zwölf", "zwölf"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("two\nlines\tand\rmore", "two lines and\\rmore"),
        ("\u202ebackwards", "\\u202ebackwards"),
        ("\x9b31m", "\\x9b31m"),
        (None, "-"),
        (12, "12"),
    ],
)
def test_a_text_cannot_change_a_terminal(text: object, expected: str) -> None:
    assert figures.printable(text) == expected


def test_addresses_are_in_the_order_of_their_numbers() -> None:
    ordered = ["10.1.1.2:80", "10.1.1.10:80", "10.1.1.10:8000", "[::1]:80", "[fe80::1%2]:80", "None", "web1:80"]
    assert sorted(set(ordered), key=figures.address_order) == ordered
