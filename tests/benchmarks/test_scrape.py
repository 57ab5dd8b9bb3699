"""A small run of the benchmark of scrapes, and its arithmetic."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.admin import Waits
from tests.benchmarks.outcomes import Outcome
from tests.benchmarks.scrape import Round, options, outcomes, run, session_us

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
PEACE = Waits(1.0, 1.0)


def test_the_page_is_scraped_while_sessions_go_on() -> None:
    (one,) = run("splice", options(["--agents", "30", "--rounds", "1", "--seconds", "1"]))
    assert 0 < one.scraped.kept_ms < 1000
    assert one.scrapes_ms
    assert min(one.scrapes_ms) > 0


def test_counting_a_session_takes_time() -> None:
    assert 0 < session_us(100) < 1000


def missed(*rounds: Round) -> list[Outcome]:
    return [row for row in outcomes(rounds) if row.reached is False]


def test_what_counts_is_the_median_scrape_and_the_median_of_what_was_more_than_in_peace() -> None:
    good, bad = Round(PEACE, Waits(5.9, 5.9), [99.0] * 3), Round(PEACE, Waits(6.1, 30.0), [101.0] * 3)
    assert missed(good, good, bad) == []
    assert [row.measured for row in missed(good, bad, bad)] == [
        ["", "101", ""],
        ["1.0", "6.1", "5.1"],
        ["1.0", "30.0", "29.0"],
    ]


def test_a_session_that_failed_is_told() -> None:
    assert [row.figure for row in missed(Round(PEACE, Waits(1.0, 1.0, failed=1), [5.0]))] == ["… sessions that failed"]


@pytest.mark.parametrize("arguments", [["--agents", "0"], ["--rounds", "0"], ["--seconds", "0"]])
def test_nothing_to_do_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(arguments)
