from __future__ import annotations

import argparse
import re
import shlex

import pytest

from rproxy.study.command import run
from rproxy.study.options import Changes, choices_of, scenarios_of, seeds_of
from rproxy.study.parser import add_parser
from rproxy.study.scenarios import SCENARIOS
from rproxy.tap import docs

SHOWN = sorted(
    command
    for page in docs.pages().values()
    for command in re.findall(r"rproxy study( [^`\n;]+)", page)
    if "-" in command
)
"""The options of every study that the manual names."""


@pytest.mark.parametrize(("text", "seeds"), [("1", [1]), ("3", [1, 2, 3]), ("5-7", [5, 6, 7]), ("9-9", [9])])
def test_seeds_are_a_number_or_a_range(text: str, seeds: list[int]) -> None:
    assert list(seeds_of(text)) == seeds


def test_times_are_changed_in_every_scenario() -> None:
    scenario = Changes(seconds=7.0, interval=2.0, freshness="0.5").apply(SCENARIOS["restarted"]())
    assert scenario.seconds == scenario.warm_s + 7.0
    assert (scenario.probing.interval_s, scenario.probing.freshness_s) == (2.0, 0.5)
    assert Changes(freshness="off").apply(scenario).probing.freshness_s is None
    assert Changes().apply(scenario) == scenario


@pytest.mark.parametrize("command", SHOWN)
def test_the_studies_that_the_manual_shows_can_be_made(command: str) -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    add_parser(commands, run)
    options = commands.choices["study"].parse_args(shlex.split(command))
    assert scenarios_of(options.scenarios).keys() == set(options.scenarios)
    assert options.policies is None or choices_of(options.policies)
    assert seeds_of(options.seeds)


def test_the_manual_shows_studies() -> None:
    assert len(SHOWN) >= 3
