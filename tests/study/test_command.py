from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rproxy.study import ablation
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
        (["--policies", "reprot"], "argument --policies: reprot: no such policy; there are "),
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
        (["--theory", "--seeds", "1"], "argument --theory: needs two --seeds at least"),
        (["--theory", "--ablation"], "argument --ablation: not allowed with argument --theory"),
        (["--trace", "/nowhere"], "argument --trace: /nowhere: No such file or directory"),
        (["--trace", "/nowhere", "one"], "argument SCENARIO: not allowed with argument --trace"),
        (["--trace", "/nowhere", "--seconds", "9"], "argument --seconds: not allowed with argument --trace"),
        (["--theory", "one"], "argument SCENARIO: not allowed with argument --theory"),
        (["--theory", "--csv", "runs"], "argument --csv: not allowed with argument --theory"),
        (["--ablation", "--policies", "p2c"], "argument --policies: not allowed with argument --ablation"),
        (["--ablation", "--plots", "plots"], "argument --plots: not allowed with argument --ablation"),
        (["--ablation", "--interval", "1"], "argument --interval: not allowed with argument --ablation"),
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


def log_of(path: Path, *lines: object) -> str:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def test_a_log_is_replayed_and_its_malformed_lines_are_numbered(capsys: Captured, tmp_path: Path) -> None:
    sessions = [{"time": number, "duration": 0.5, "backend": f"b{number % 3}"} for number in range(30)]
    path = log_of(tmp_path / "log", "oops", *sessions, {"time": 1})
    assert main(["study", "--trace", path, "--policies", "random", "--seeds", "1", "--workers", "1"]) == 0
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        f"{path}:1: ignored: no JSON",
        f"{path}:32: ignored: duration is missing, or no number",
    ]
    title, _, *rows = output.out.splitlines()
    assert title == f"trace: 30 sessions on 3 back-ends in 30 s, as {path} has them (1 seed)"
    assert rows[0].split()[:4] == ["(as", "logged)", "0.500", "0.500"]
    assert [row.split()[0] for row in rows[1:4]] == ["least-connections", "random", "limit"]


def test_of_many_malformed_lines_the_first_are_shown(capsys: Captured, tmp_path: Path) -> None:
    path = log_of(tmp_path / "log", *["{}"] * 25)
    assert message_of(capsys, "--trace", path) == f"argument --trace: {path}: no line of it is of use"
    with pytest.raises(SystemExit):
        main(["study", "--trace", path])
    lines = capsys.readouterr().err.splitlines()
    assert lines[10] == f"{path}: 15 more lines ignored"
    assert not lines[11].startswith(path)


def test_a_log_of_mixed_units_is_not_replayed_for_ever(capsys: Captured, tmp_path: Path) -> None:
    one = {"duration": 1, "backend": "b"}
    path = log_of(tmp_path / "log", {"time": 0, **one}, {"time": 1.8e9, **one})
    assert message_of(capsys, "--trace", path) == (
        f"argument --trace: {path}: its sessions span 1,800,000,001 s; at most 10,000,000 are replayed"
    )
    path = log_of(tmp_path / "log", {"time": -1e308, **one}, {"time": 1.7e308, **one})
    assert message_of(capsys, "--trace", path).startswith(f"argument --trace: {path}: its sessions span inf s")


def test_services_are_replayed_one_by_one(capsys: Captured, tmp_path: Path) -> None:
    """They share no back-ends: a client of one cannot be given those of another."""
    one = {"time": 1, "duration": 1, "backend": "b"}
    path = log_of(tmp_path / "log", {**one, "service": "web"}, {**one, "service": "app"}, one)
    assert message_of(capsys, "--trace", path) == (
        f"argument --trace: {path}: services do not share back-ends: replay one alone of app, web"
    )


def test_a_byte_order_mark_is_ignored(capsys: Captured, tmp_path: Path) -> None:
    path = log_of(tmp_path / "log", "\ufeff" + json.dumps({"time": 1, "duration": 1, "backend": "b"}))
    assert main(["study", "--trace", path, "--policies", "random", "--seeds", "1", "--workers", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_an_ablation_compares_to_the_whole_formula(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [ablation.Variant(ablation.WHOLE), ablation.Variant("threshold off", {"saturation": "off"})]
    monkeypatch.setattr(ablation, "variants", lambda: iter(few))
    assert main(["study", "one", "--ablation", "--seeds", "2", "--seconds", "3", "--workers", "1"]) == 0
    title, heading, whole, off = capsys.readouterr().out.strip().splitlines()
    assert title.endswith("the report's formula, one change at a time")
    assert heading.startswith("change")
    assert whole.endswith("1.00 [1.00 1.00]")
    assert off.startswith("threshold off  ")


def test_plots_are_drawn(capsys: Captured, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "plots"
    options = ["--policies", "random", "--seeds", "2", "--seconds", "1", "--workers", "1", "--plots", str(folder)]
    assert main(["study", "two", "single", *options]) == 0
    assert capsys.readouterr().out.endswith(f"drawn: {folder}/two.svg, {folder}/single.svg, {folder}/ratios.svg\n")
    drawn = (folder / "two.svg").read_text()
    assert "<svg" in drawn
    assert all(f">{policy}<" in drawn for policy in ("random", "least-connections", "limit"))
    assert ">single<" in (folder / "ratios.svg").read_text()


def test_without_matplotlib_one_line_says_so(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = message_of(capsys, "--plots", "plots")
    assert said.startswith("argument --plots: needs matplotlib (pip install 'rproxy[study]')")
    assert not Path("plots").exists()


def test_a_plot_that_cannot_be_written_is_said(capsys: Captured, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "file"
    file.touch()
    assert message_of(capsys, "--plots", str(file)) == f"argument --plots: {file}: File exists"


def test_nothing_loads_matplotlib_unasked() -> None:
    code = "import sys, rproxy.study.command; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
