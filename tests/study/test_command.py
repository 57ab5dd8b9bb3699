from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.study import runs as study_runs
from rproxy.study.scenarios import SCENARIOS
from rproxy.tap.command import main

Captured = pytest.CaptureFixture[str]


def message_of(capsys: Captured, *arguments: str) -> str:
    """The last line of what it says about wrong arguments."""
    with pytest.raises(SystemExit) as ended:
        main(["study", *arguments])
    output = capsys.readouterr()
    assert (ended.value.code, output.out) == (2, "")
    return output.err.splitlines()[-1].removeprefix("rproxy study: error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fuor"], "there is no scenario 'fuor'; do you mean four?"),
        (["x"], "there is no scenario 'x'; --list shows them"),
        (["--policies", "reprot"], "argument --policies: reprot: no such policy; there are report,"),
        (["--policies", "report:x=1"], "argument --policies: report:x=1: no option x; there are saturation"),
        (["--policies", ""], "argument --policies: : no such policy"),
        (["--seeds", "0"], "argument --seeds: '0' must be from 1 to 1000 seeds"),
        (["--seeds", "3-2"], "argument --seeds: '3-2' must be from 1 to 1000 seeds"),
        (["--seeds", "two"], "argument --seeds: 'two' is neither N nor A-B"),
        (["--seconds", "0"], "argument --seconds: must be a number of seconds from 0.001 to 10,000,000, not 0.0"),
        (["--seconds", "nan"], "argument --seconds: must be a number of seconds from 0.001 to 10,000,000, not nan"),
        (["--interval", "-1"], "argument --interval: must be a number of seconds from 0.001 to 10,000,000, not -1.0"),
        (["--freshness", "old"], "argument --freshness: must be a number of seconds from 0.001 to 10,000,000, not old"),
        (["--workers", "0"], "argument --workers: must be from 1 to 1024"),
        (["--csv", "/nowhere/at/all"], "argument --csv: /nowhere/at/all: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(capsys: Captured, arguments: list[str], message: str) -> None:
    assert message_of(capsys, *arguments).startswith(message)


def test_scenarios_and_policies_are_listed(capsys: Captured) -> None:
    assert main(["study", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in SCENARIOS)
    assert "least-connections" in listed
    assert "two-choices" in listed


def test_a_study_prints_a_table_for_each_scenario_and_a_line_for_each_run(capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    arguments = ["--policies", "round-robin", "--seeds", "3-4", "--seconds", "1", "--csv", str(path), "--workers", "1"]
    assert main(["study", "two", "single", *arguments]) == 0
    first, second = capsys.readouterr().out.strip().split("\n\n")
    assert first.startswith("two: ")
    assert second.startswith("single: ")
    assert [line.split()[0] for line in first.splitlines()[2:5]] == ["least-connections", "round-robin", "limit"]
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + 2 * 3 * 2
    assert [line.split(",")[2] for line in lines[1:3]] == ["3", "4"]


def test_freshness_off_leaves_the_interval(capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    options = ["--seconds", "1", "--seeds", "1", "--workers", "1", "--csv", str(path)]
    rates = []
    for more in (["--freshness", "off", "--interval", "1"], ["--freshness", "0.2"]):
        assert main(["study", "single", "--policies", "random", *options, *more]) == 0
        rates.append(float(path.read_text().splitlines()[1].split(",")[10]))
    capsys.readouterr()
    assert rates == [pytest.approx(1, rel=0.1), pytest.approx(5, rel=0.1)]


def test_a_run_that_fails_ends_with_status_1(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> object:
        raise study_runs.RunFailed("one under report, seed 1: the policy failed")

    monkeypatch.setattr("rproxy.study.command.execute_all", fail)
    assert main(["study", "one"]) == 1
    assert capsys.readouterr().err == "rproxy study: error: one under report, seed 1: the policy failed\n"


def test_theory_needs_more_than_one_seed(capsys: Captured) -> None:
    assert main(["study", "--theory", "--seeds", "1"]) == 1
    assert "two seeds" in capsys.readouterr().err
