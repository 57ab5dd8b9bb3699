"""`rproxy study`: what it does, and prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NoReturn

from rproxy.policies.own_options import described
from rproxy.policies.registry import POLICIES
from rproxy.study import ablation, plots, replay, theory
from rproxy.study.options import SECONDS_MAX, Changes, OptionError, choices_of, scenarios_of, seeds_of, workers_of
from rproxy.study.parser import USUAL
from rproxy.study.policies import BASE, LIMIT, OWN, Choice
from rproxy.study.runs import Run, RunFailed, execute_all
from rproxy.study.scenarios import SCENARIOS, Scenario
from rproxy.study.table import Compared, CsvFile, compared, render
from rproxy.study.world import Result

FLAWS_SHOWN: Final = 10
"""Malformed lines of a log that are shown one by one."""
AS_LOGGED: Final = "(as logged)"
EXCLUDED: Final = {
    "theory": ("scenarios", "policies", "seconds", "interval", "freshness", "csv", "plots"),
    "ablation": ("policies", "interval", "freshness", "plots"),
    "trace": ("scenarios", "seconds"),
}
"""By kind of study: arguments that would have no effect on it."""

Results = dict[str, dict[int, Result]]
"""Of a scenario, by policy and seed."""
Ended = Callable[[str, Scenario, Results], str]
"""Called with a scenario's name and results once all of its runs have ended; returns the text to print."""


def run(options: argparse.Namespace, wrong: Callable[[str], NoReturn]) -> int:
    """Returns the exit status; `wrong` ends the process with a message about the arguments."""
    try:
        return _list() if options.list else _study(options)
    except OptionError as error:
        wrong(str(error))
    except RunFailed as error:
        return _failed(str(error))
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it exits
        return 0
    except KeyboardInterrupt:
        return 130


def _failed(message: str) -> int:
    print(f"rproxy study: error: {message}", file=sys.stderr)
    return 1


def _list() -> int:
    width = max(map(len, SCENARIOS))
    print("scenarios:")
    for name, make in SCENARIOS.items():
        print(f"  {name:{width}}  {make().text}")
    print("policies, and their options:")
    for name, kind in {**POLICIES, **OWN}.items():
        print(f"  {name}{' (only in studies)' if name in OWN else ''}")
        for line in described(kind.options):
            print(f"      {line}")
    print(f"  {LIMIT} (only in studies): knows all sessions and hosts; always compared with")
    return 0


def _study(options: argparse.Namespace) -> int:
    _check_combination(options)
    seeds, workers = seeds_of(options.seeds), workers_of(options.workers)
    if options.theory:
        return _check_theory(seeds, workers)
    with ExitStack() as opened:
        log = _log(options.trace) if options.trace is not None else None
        changes = Changes(options.seconds, options.interval, options.freshness)
        scenarios = (
            {"trace": replay.scenario_of(log, options.trace)}
            if log is not None
            else scenarios_of(options.scenarios or USUAL)
        )
        scenarios = {name: changes.apply(scenario) for name, scenario in scenarios.items()}
        choices = choices_of(",".join(POLICIES) if options.policies is None else options.policies)
        csv = None if options.csv is None else CsvFile(opened.enter_context(_csv(options.csv)))
        pyplot = None if options.plots is None else _plots(options.plots)
        if options.ablation:
            _print_all(ablation.runs(scenarios, seeds), workers, csv, ablation.render)
            return 0
        runs = [
            Run(name, policy, seed, scenario, choice)
            for name, scenario in scenarios.items()
            for policy, choice in _of(scenario, choices).items()
            for seed in seeds
        ]
        rows: dict[str, list[Compared]] = {}

        def ended(name: str, scenario: Scenario, results: Results) -> str:
            if log is not None:
                results = {AS_LOGGED: dict.fromkeys(seeds, replay.as_logged(log)), **results}
            rows[name] = compared(results)
            return render(name, scenario, rows[name], len(seeds))

        _print_all(runs, workers, csv, ended)
        if pyplot is not None:
            _draw(pyplot, options.plots, rows)
    return 0


def _check_combination(options: argparse.Namespace) -> None:
    """Raise `OptionError` for arguments that would have no effect."""
    for kind, excluded in EXCLUDED.items():
        if getattr(options, kind) in (None, False):
            continue
        for name in excluded:
            if getattr(options, name) not in (None, []):
                argument = "SCENARIO" if name == "scenarios" else f"--{name}"
                raise OptionError(f"argument {argument}: not allowed with argument --{kind}")


def _print_all(runs: Sequence[Run], workers: int, csv: CsvFile | None, ended: Ended) -> None:
    """Make the runs, and print what `ended` says of each scenario as soon as it can."""
    results: Results = {}
    for number, (run, result) in enumerate(execute_all(runs, workers), 1):
        results.setdefault(run.policy, {})[run.seed] = result
        if sys.stderr.isatty():
            print(f"\r{number} of {len(runs)} runs", end="\r", file=sys.stderr, flush=True)
        if csv is not None:
            csv.write(run, result)
        if number == len(runs) or runs[number].scenario != run.scenario:
            print(ended(run.scenario, run.world, results), flush=True)
            results = {}


def _of(scenario: Scenario, choices: Mapping[str, Choice]) -> dict[str, Choice]:
    """The choices, between the one to compare with and the all-knowing one."""
    found = {BASE: Choice(BASE), **choices}
    found.pop(LIMIT, None)
    return {**found, LIMIT: Choice(LIMIT)} if scenario.has_limit else found


def _csv(path: str) -> Any:
    try:
        return open(path, "w", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise OptionError(f"argument --csv: {path}: {_why(error)}") from None


def _plots(folder: str) -> Any:
    """What draws them; the folder is there."""
    try:
        pyplot = plots.load()
        Path(folder).mkdir(parents=True, exist_ok=True)
    except plots.NoMatplotlib as error:
        raise OptionError(f"argument --plots: {error}") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"argument --plots: {folder}: {_why(error)}") from None
    return pyplot


def _draw(pyplot: Any, folder: str, rows: Mapping[str, Sequence[Compared]]) -> None:
    try:
        drawn = plots.draw(pyplot, Path(folder), rows)
    except OSError as error:
        raise RunFailed(f"--plots {folder}: {_why(error)}") from None
    print(f"drawn: {', '.join(map(str, drawn))}")


def _log(path: str) -> replay.Log:
    """The log; its malformed lines are shown."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            log = replay.read_log(file)
    except (OSError, ValueError) as error:
        raise OptionError(f"argument --trace: {path}: {_why(error)}") from None
    for number, flaw in list(log.flaws.items())[:FLAWS_SHOWN]:
        print(f"{path}:{number}: ignored: {flaw}", file=sys.stderr)
    if len(log.flaws) > FLAWS_SHOWN:
        print(f"{path}: {len(log.flaws) - FLAWS_SHOWN} more lines ignored", file=sys.stderr)
    if not log.entries:
        raise OptionError(f"argument --trace: {path}: no line of it is of use")
    if len(log.services) > 1:
        names = ", ".join(log.services)
        raise OptionError(f"argument --trace: {path}: services do not share back-ends: replay one alone of {names}")
    if not log.seconds <= SECONDS_MAX:
        raise OptionError(
            f"argument --trace: {path}: its sessions span {log.seconds:,.0f} s; at most {SECONDS_MAX:,.0f} are replayed"
        )
    return log


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _check_theory(seeds: Sequence[int], workers: int) -> int:
    if len(seeds) < 2:
        raise OptionError("argument --theory: needs two --seeds at least")
    fails = 0
    for outcome in theory.verify(list(theory.checks()), seeds, workers):
        print(outcome, flush=True)
        fails += not outcome.holds
    ages = theory.verify_ages(seeds, workers)
    print(ages)
    return 1 if fails or not ages.holds else 0
