from __future__ import annotations

import re

from rproxy.study.ablation import INTERVALS_S, THRESHOLDS, WHOLE, render, runs, variants
from rproxy.study.formula import FormulaOptions
from rproxy.study.scenarios import SCENARIOS
from tests.study.test_table import result


def test_every_change_is_made_once_and_can_be_run() -> None:
    all_variants = list(variants())
    assert len({variant.name for variant in all_variants}) == len(all_variants)
    assert all_variants[0].name == WHOLE
    for run in runs({"one": SCENARIOS["one"]()}, [1]):
        run.choice.maker(run.world)  # raises for an unknown option
        assert run.world.probing.freshness_s is None


def test_each_term_is_off_once_and_the_rest_stays() -> None:
    off = {variant.name: variant.options for variant in variants() if re.fullmatch(r"\w+ off", variant.name)}
    assert off.pop("threshold off") == {"saturation": "off"}
    assert off == {f"{term} off": {term: "0"} for term in ("rtt", "tcp", "loss", "cpu", "memory")}
    named = {variant.name: variant.options for variant in variants()}
    assert named["cpu * 4"] == {"cpu": f"{4 * FormulaOptions().cpu:g}"}


def test_thresholds_and_intervals_are_those_asked_for() -> None:
    assert sorted([*THRESHOLDS, 0.7]) == [0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert sorted([*INTERVALS_S, 5.0]) == [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
    assert {variant.interval_s for variant in variants()} == {*INTERVALS_S, 5.0}


def test_what_differs_is_marked() -> None:
    whole = {1: result(1.0), 2: result(2.0)}
    table = render(
        "one",
        SCENARIOS["one"](),
        {WHOLE: whole, "half": {1: result(0.5), 2: result(1.01)}, "unclear": {1: result(0.5), 2: result(4.0)}},
    )
    _, _, *rows = table.splitlines()
    assert rows[0].endswith("1.00 [1.00 1.00]")
    assert rows[1].endswith(" *")
    assert not rows[2].endswith("*")
