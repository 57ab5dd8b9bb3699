"""The simulator against theory, quickly: `rproxy study --theory` takes longer and is more exact."""

from __future__ import annotations

from typing import Final

import pytest

from rproxy.study.theory import Check, checks, erlang_s, sharing_s, two_choices_s, verify, verify_ages

pytestmark = pytest.mark.no_cover

CHECKS: Final = {check.text: check for check in checks(clients=6_000)}
QUICK: Final = [name for name in CHECKS if "0.9" not in name]
"""At a load of 0.9 means take long to settle."""


def test_the_formulas_agree_where_they_must() -> None:
    assert erlang_s(1, 0.8) == pytest.approx(sharing_s(0.8)) == pytest.approx(0.5)
    assert erlang_s(2, 0.5) == pytest.approx(0.1 / (1 - 0.25))
    assert two_choices_s(0.7) == pytest.approx(0.1614, abs=0.0001)


@pytest.mark.parametrize("name", QUICK)
def test_means_are_those_of_theory(name: str) -> None:
    (outcome,) = verify([CHECKS[name]], range(1, 6), workers=1)
    assert outcome.holds, outcome
    assert outcome.measured.high - outcome.measured.low < 0.6 * outcome.measured.mean


def test_a_mean_that_is_wrong_is_noticed() -> None:
    right = CHECKS["M/G/1-PS, load 0.5, work exponential"]
    wrong = Check(right.text, right.scenario, right.policy, 1.3 * right.expected_s)
    (outcome,) = verify([wrong], range(1, 6), workers=1)
    assert not outcome.holds
    assert str(outcome).startswith("FAILS")


def test_old_reports_are_worse_than_new_ones() -> None:
    outcome = verify_ages(range(1, 3), workers=1, seconds=90.0)
    assert outcome.holds, outcome
