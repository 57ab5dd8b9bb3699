"""A small run of the benchmark of an agent's answers, and its arithmetic."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.answer import MORE_MAX_US, options, outcomes, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def test_agents_and_the_echo_answer_and_take_time_for_it() -> None:
    costs = run(options(["--rates", "50", "0", "--rounds", "2", "--seconds", "0.2"]))
    assert list(costs) == ["echo", "plain", "keyed"]
    for each in costs.values():
        assert list(each) == [50, 0]
        assert all(len(found) == 2 and min(found) > 1 for found in each.values())


def test_what_counts_is_the_median_of_what_an_answer_costs_more_than_an_echo() -> None:
    costs = {
        "echo": {10.0: [50.0, 80.0, 60.0], 0.0: [9.0, 9.0, 9.0]},
        "plain": {10.0: [60.0, 100.0, 300.0], 0.0: [19.0, 30.0, 19.0]},
        "keyed": {10.0: [50.0 + MORE_MAX_US + 1, 80.0 + MORE_MAX_US + 1, 60.0], 0.0: [19.0, 19.0, 19.0]},
    }
    rows = outcomes(costs)
    assert [(row.figure, list(row.measured), row.reached) for row in rows] == [
        ("plain, 10/s: µs", ["100", "60", "20"], True),
        ("keyed, 10/s: µs", ["111", "60", f"{MORE_MAX_US + 1:.0f}"], False),
        ("plain, at once: µs", ["19", "9", "10"], None),
        ("keyed, at once: µs", ["19", "9", "10"], None),
    ]


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "0"], ["--rates", "-1"]])
def test_nothing_to_do_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(arguments)
