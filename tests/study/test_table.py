from __future__ import annotations

import os
from io import StringIO
from multiprocessing import active_children
from typing import Any

import attrs
import pytest

from rproxy.study.policies import Choice
from rproxy.study.runs import Run, RunFailed, execute, execute_all
from rproxy.study.scenarios import SCENARIOS
from rproxy.study.table import CSV_FIELDS, CsvFile, compared, render
from rproxy.study.world import Result


def result(p99: float, **fields: Any) -> Result:
    plain = Result(
        mean=p99 / 4, p50=p99 / 8, p99=p99, p999=2 * p99, most=1.25, failures=3, count=100, chosen=(60, 40),
        probes_s=10.0, took_s=0.5,
    )  # fmt: skip
    return attrs.evolve(plain, **fields)


RESULTS = {
    "least-connections": {1: result(2.0), 2: result(4.0)},
    "report": {1: result(1.0), 2: result(2.0)},
    "limit": {1: result(0.5), 2: result(1.0)},
}


def test_ratios_are_of_the_same_seeds() -> None:
    least, report, limit = compared(RESULTS)
    assert least.to_base is None
    assert report.to_base is not None
    assert report.to_base.mean == pytest.approx(0.5)
    assert report.to_base.low == pytest.approx(report.to_base.high)
    assert report.to_limit is not None
    assert report.to_limit.mean == pytest.approx(2.0)
    assert limit.to_limit is None
    assert limit.shares == (60.0, 40.0)


def test_without_the_others_there_are_no_ratios() -> None:
    (row,) = compared({"report": RESULTS["report"]})
    assert (row.to_base, row.to_limit) == (None, None)


def test_the_table_shows_a_row_for_each_policy() -> None:
    text = render("two", SCENARIOS["two"](), compared(RESULTS), 2)
    title, heading, *rows = text.splitlines()
    assert title == "two: two hosts, one half as fast (2 seeds)"
    assert heading.split("  ")[0] == "policy"
    assert rows[1].split() == [
        "report", "0.375", "±1.588", "0.188", "±0.794", "1.41", "[0.02", "115.60]", "2.83", "[0.03", "231.20]", "1.25",
        "±0.00", "3", "±0", "0.50", "[0.50", "0.50]", "2.00", "[2.00", "2.00]",
    ]  # fmt: skip
    assert rows[-1] == "sessions by host under limit: 60.0 %, 40.0 %"


def test_a_csv_line_has_what_a_run_measured() -> None:
    file = StringIO()
    run = Run("two", "report", 7, SCENARIOS["two"](), Choice("report"))
    CsvFile(file).write(run, result(2.0))
    assert file.getvalue() == f"{','.join(CSV_FIELDS)}\ntwo,report,7,0.5,0.25,2,4,1.25,3,100,10,0.5,60 40\n"


def short(policy: str, seed: int = 1) -> Run:
    scenario = attrs.evolve(SCENARIOS["one"](), warm_s=12.0, seconds=14.0)
    return Run("one", policy, seed, scenario, Choice.parse(policy))


def test_processes_find_what_one_alone_does_and_in_order() -> None:
    runs = [short("report", 1), short("limit", 1), short("report", 2)]
    alone, together = (
        [(run, attrs.evolve(found, took_s=0)) for run, found in execute_all(runs, workers)] for workers in (1, 2)
    )
    assert alone == together
    assert [run for run, _ in alone] == runs


def test_a_run_that_fails_is_named() -> None:
    with pytest.raises(RunFailed, match="one under report, seed 1: the policy failed: KeyError"):
        execute(attrs.evolve(short("report"), choice=Lost("report")))


def test_a_worker_that_dies_is_told() -> None:
    runs = [attrs.evolve(short("report", seed), choice=Fatal("report")) for seed in (1, 2)]
    with pytest.raises(RunFailed, match="a worker process has died"):
        list(execute_all(runs, 2))


def test_a_study_that_ends_early_leaves_no_process() -> None:
    before = set(active_children())
    found = execute_all([short("report", seed) for seed in range(6)], 2)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert set(active_children()) <= before


class Fatal(Choice):
    """Ends its process."""

    def maker(self, scenario: Any) -> Any:
        os._exit(1)


class Lost(Choice):
    """The all-knowing policy with hosts that it does not know."""

    def maker(self, scenario: Any) -> Any:
        limit = Choice("limit").maker(scenario)
        return lambda hosts, rng: limit({}, rng)
