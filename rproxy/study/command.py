"""`rproxy study`: its options, and what it prints."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Any, Final, NoReturn

import attrs

from rproxy.policies.own_options import OFF, PolicyError
from rproxy.policies.registry import POLICIES
from rproxy.study import theory
from rproxy.study.policies import BASE, LIMIT, OWN, Choice, known
from rproxy.study.runs import Run, RunFailed, execute_all
from rproxy.study.scenarios import SCENARIOS, Scenario
from rproxy.study.table import Compared, CsvFile, compared, render
from rproxy.study.world import Result

DESCRIPTION: Final = """\
Runs the proxy's own pool, monitor and policies against simulated hosts, in virtual time: response times in seconds,
over seeds, with intervals of 95 %. 'rproxy docs choosing' says what was learned."""
USUAL: Final = ("one", "four", "eight", "eight-heavy", "elsewhere", "long")
"""The scenarios that are run if none is named."""
SEEDS_MAX: Final = 1000
WORKERS_MAX: Final = 1024

_Wrong = Callable[[str], NoReturn]


def add_parser(commands: Any) -> None:
    """Add the subcommand; `run` of its options returns the exit status."""
    parser = commands.add_parser("study", help="compare policies by simulation", description=DESCRIPTION)
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="*", help=f"by default {' '.join(USUAL)}")
    parser.add_argument("--list", action="store_true", help="list the scenarios and the policies")
    parser.add_argument(
        "--policies", metavar="NAME,…", default=",".join(POLICIES), help="NAME or NAME:OPTION=VALUE:…; by default all"
    )
    parser.add_argument("--seeds", metavar="N|A-B", default="4", help="1 to N, or A to B (by default 4)")
    parser.add_argument("--seconds", metavar="S", type=float, help="virtual time after the warm-up")
    parser.add_argument("--interval", metavar="S", type=float, help="between probes, in every scenario")
    parser.add_argument("--freshness", metavar="S|off", help="of reports, by probes on demand, in every scenario")
    parser.add_argument("--workers", metavar="N", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--csv", metavar="FILE", help="one line for each run")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--theory", action="store_true", help="check the simulator against queueing theory instead")
    parser.set_defaults(run=lambda options: _run(options, parser.error))


def _run(options: argparse.Namespace, wrong: _Wrong) -> int:
    """Returns the exit status; `wrong` ends the process with a message about the arguments."""
    try:
        if options.list:
            _list()
            return 0
        return _study(options, wrong)
    except RunFailed as error:
        print(f"rproxy study: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it exits
        return 0
    except KeyboardInterrupt:
        return 130


def _list() -> None:
    width = max(map(len, SCENARIOS))
    print("scenarios:")
    for name, make in SCENARIOS.items():
        print(f"  {name:{width}}  {make().text}")
    print(f"policies: {', '.join(POLICIES)}")
    print(f"only for studies: {', '.join((LIMIT, *OWN))}")


def _study(options: argparse.Namespace, wrong: _Wrong) -> int:
    seeds, workers = _seeds(options.seeds, wrong), options.workers
    if not 1 <= workers <= WORKERS_MAX:
        wrong(f"argument --workers: must be from 1 to {WORKERS_MAX}")
    if options.theory:
        return _check_theory(seeds, workers)
    scenarios = _scenarios(options, wrong)
    choices = _choices(options.policies, wrong)
    runs = [
        Run(name, policy, seed, scenario, choice)
        for name, scenario in scenarios.items()
        for policy, choice in _of(scenario, choices).items()
        for seed in seeds
    ]
    with ExitStack() as files:
        csv = None
        if options.csv is not None:
            try:
                csv = CsvFile(files.enter_context(open(options.csv, "w", encoding="utf-8")))
            except OSError as error:
                wrong(f"argument --csv: {options.csv}: {error.strerror}")
        _compare(runs, workers, csv)
    return 0


def _compare(runs: Sequence[Run], workers: int, csv: CsvFile | None) -> dict[str, list[Compared]]:
    """Make the runs, print a table as soon as those of a scenario are made; the rows by scenario."""
    rows: dict[str, list[Compared]] = {}
    results: dict[str, dict[int, Result]] = {}
    found = execute_all(runs, workers)
    for number, (run, result) in enumerate(found, 1):
        results.setdefault(run.policy, {})[run.seed] = result
        if csv is not None:
            csv.write(run, result)
        if number == len(runs) or runs[number].scenario != run.scenario:
            rows[run.scenario] = compared(results)
            seeds = len(results[run.policy])
            print(render(run.scenario, run.world, rows[run.scenario], seeds), flush=True)
            results = {}
    return rows


def _check_theory(seeds: Sequence[int], workers: int) -> int:
    if len(seeds) < 2:
        raise RunFailed("--theory needs two seeds at least")
    fails = 0
    for outcome in theory.verify(list(theory.checks()), seeds, workers):
        print(outcome, flush=True)
        fails += not outcome.holds
    ages = theory.verify_ages(seeds, workers)
    print(ages)
    return 1 if fails or not ages.holds else 0


def _of(scenario: Scenario, choices: Mapping[str, Choice]) -> dict[str, Choice]:
    """The choices, between the one to compare with and the all-knowing one."""
    found = {BASE: Choice(BASE), **choices}
    found.pop(LIMIT, None)
    return {**found, LIMIT: Choice(LIMIT)} if scenario.has_limit else found


def _seeds(text: str, wrong: _Wrong) -> range:
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text)
    if match is None:
        wrong(f"argument --seeds: {text!r} is neither N nor A-B")
    first, last = (1, int(match[1])) if match[2] is None else (int(match[1]), int(match[2]))
    if not 0 <= last - first < SEEDS_MAX:
        wrong(f"argument --seeds: {text!r} must be from 1 to {SEEDS_MAX} seeds")
    return range(first, last + 1)


def _scenarios(options: argparse.Namespace, wrong: _Wrong) -> dict[str, Scenario]:
    found = {}
    for name in options.scenarios or USUAL:
        if name not in SCENARIOS:
            near = get_close_matches(name, SCENARIOS, 1)
            hint = f"do you mean {near[0]}?" if near else "--list shows them"
            wrong(f"there is no scenario {name!r}; {hint}")
        found[name] = _changed(SCENARIOS[name](), options, wrong)
    return found


def _changed(scenario: Scenario, options: argparse.Namespace, wrong: _Wrong) -> Scenario:
    """With the times that the options give."""
    probing = scenario.probing
    if options.interval is not None:
        probing = attrs.evolve(probing, interval_s=_positive("--interval", options.interval, wrong))
    if options.freshness is not None:
        off = options.freshness == OFF
        probing = attrs.evolve(probing, freshness_s=None if off else _positive("--freshness", options.freshness, wrong))
    scenario = attrs.evolve(scenario, probing=probing)
    if options.seconds is None:
        return scenario
    return attrs.evolve(scenario, seconds=scenario.warm_s + _positive("--seconds", options.seconds, wrong))


def _positive(option: str, given: object, wrong: _Wrong) -> float:
    try:
        number = float(str(given))
    except ValueError:
        number = math.nan
    if not 0.001 <= number <= 1e7:
        wrong(f"argument {option}: must be a number of seconds from 0.001 to 10,000,000, not {given}")
    return number


def _choices(text: str, wrong: _Wrong) -> dict[str, Choice]:
    found = {}
    for each in text.split(","):
        try:
            found[each] = Choice.parse(each)
        except PolicyError as error:
            wrong(f"argument --policies: {each}: {_explained(each, str(error))}")
    return found


def _explained(policy: str, error: str) -> str:
    name = policy.partition(":")[0]
    near = get_close_matches(name, known(), 1) if name not in known() else []
    return f"{error}; do you mean {near[0]}?" if near else error
