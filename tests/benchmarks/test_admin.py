"""A small run of the benchmark of operators' connections, and its arithmetic."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.admin import GROWTH_MAX_MB, Round, Waits, options, outcomes, run
from tests.benchmarks.outcomes import Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
CHOSEN = ["crowds", "bodies"]


def test_attacks_are_made_and_sessions_go_on() -> None:
    rounds = run("splice", options(["--agents", "30", "--rounds", "1", "--seconds", "0.5", "--attacks", *CHOSEN]))
    assert list(rounds) == CHOSEN
    for (one,) in rounds.values():
        assert 0 < one.peace.kept_ms < 1000
        assert 0 < one.attack.new_ms < 1000


def missed(*rounds: Round) -> list[Outcome]:
    return [row for row in outcomes({"crowds": list(rounds)}) if row.reached is False]


def test_what_counts_is_the_median_of_what_was_more_than_in_peace() -> None:
    peace = Waits(4.0, 4.0)
    good, bad = Round(peace, Waits(8.9, 8.9), 1.0), Round(peace, Waits(9.1, 30.0), 1.0)
    assert missed(good, good, bad) == []
    assert [row.measured for row in missed(good, bad, bad)] == [["4.0", "9.1", "5.1"], ["4.0", "30.0", "26.0"]]


def test_memory_counts_in_every_round() -> None:
    peace = Waits(1.0, 1.0)
    assert len(missed(Round(peace, peace, 0.0), Round(peace, peace, GROWTH_MAX_MB + 1))) == 1


@pytest.mark.parametrize("arguments", [["--agents", "0"], ["--rounds", "0"], ["--seconds", "0"], ["--attacks", "x"]])
def test_nothing_to_do_and_what_does_not_exist_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(arguments)
