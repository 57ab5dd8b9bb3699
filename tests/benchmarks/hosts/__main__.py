"""Runs every contender in every case, round by round, and reports."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Final

import attrs

from rproxy.policies.own_options import PolicyError
from rproxy.policies.registry import policy_factory
from tests.benchmarks.hosts.cgroups import NoCgroups
from tests.benchmarks.hosts.contenders import BALANCES, DEFAULT, OURS, POLICIES_COMPARED, Contender, contenders
from tests.benchmarks.hosts.farm import PATIENCE_S, PROXIES_MAX, Farm, Played, Run, built
from tests.benchmarks.hosts.figures import Case, Figures, Results
from tests.benchmarks.hosts.helpers import HelperFailed
from tests.benchmarks.hosts.report import as_json, text
from tests.benchmarks.hosts.schedule import SESSIONS, WORK_S, Phase, short_sessions
from tests.benchmarks.machine import setup
from tests.benchmarks.outcomes import exit_status
from tests.benchmarks.peers import programs
from tests.benchmarks.peers.__main__ import names, rotated, tell
from tests.benchmarks.peers.programs import ProgramFailed

LOAD: Final = 0.7
"""Of what the hosts sustain beside their hogs."""
WARM_UP_S: Final = 3.0
"""What is due in it does not count."""
OVERLOAD: Final = 1.25
"""Of the quotas, to measure what is left of them."""
ATTEMPTS: Final = 3
"""How often a run is made before its contender has no figures in that round."""
QUOTA_UNITS: Final = 20
"""Quotas are multiples of one over this, in cores: so many targets a host gets of work that is spread evenly."""
CORES_MIN: Final = 2
NEEDED: Final = {"ip": "iproute2", "nsenter": "util-linux", "taskset": "util-linux"}
"""Debian's packages by program, beside haproxy."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAILURES: Final = (
    HelperFailed,
    ProgramFailed,
    AssertionError,
    OSError,
    RuntimeError,
    ValueError,
    subprocess.SubprocessError,
)


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.hosts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--seconds", type=float, default=25.0, help=f"of each run, after {WARM_UP_S:g} s more (25)")
    parser.add_argument("--proxies", type=_numbers, default=[1, 4], help="numbers of proxies (1,4)")
    parser.add_argument("--what", type=names(list(SESSIONS)), default=list(SESSIONS), help=",".join(SESSIONS))
    parser.add_argument("--balances", type=names(BALANCES), default=list(BALANCES), help=",".join(BALANCES))
    parser.add_argument(
        "--policies",
        type=_policies,
        default=list(POLICIES_COMPARED),
        help=f"ours, each perhaps followed by further options of the proxy ({','.join(POLICIES_COMPARED)})",
    )
    parser.add_argument("--seed", type=int, default=1, help="of arrivals, works and hogs (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every value of every round goes there")
    parsed = parser.parse_args(arguments)
    if parsed.rounds < 1 or parsed.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return parsed


def _numbers(text: str) -> list[int]:
    """Numbers of proxies."""
    numbers = sorted({int(number) for number in text.split(",")})
    if not 0 < numbers[0] <= numbers[-1] <= PROXIES_MAX:
        raise argparse.ArgumentTypeError(f"{text}: must be from 1 to {PROXIES_MAX}")
    return numbers


def _policies(text: str) -> list[str]:
    chosen = list(dict.fromkeys(" ".join(each.split()) for each in text.split(",")))
    for each in chosen:
        name = each.partition(" ")[0]
        try:
            policy_factory(name)
        except PolicyError as error:
            raise argparse.ArgumentTypeError(f"{name}: {error}") from None
    return chosen


@attrs.define
class Bench:
    """Runs the rounds and collects results."""

    farm: Farm
    chosen: argparse.Namespace
    contenders: Mapping[str, Contender]
    results: Results

    def run_round(self) -> None:
        """Let every contender take its turn in every case."""
        number = self.results.begin_round()
        seconds = WARM_UP_S + self.chosen.seconds
        hogs = self.farm.hogs(self._rng("hogs"), seconds)
        try:
            cores = self._left(seconds, hogs)
        except FAILURES as error:
            self.results.fail("what hogs leave", error)
            return
        self.results.left.append(cores)
        tell(f"round {number}: the hogs leave {cores:.2f} cores")
        cases = [Case(pool, proxies) for pool in self.chosen.what for proxies in self.chosen.proxies]
        for position, case in enumerate(cases, number):
            run = Run(SESSIONS[case.pool](self._rng(case.pool), LOAD * cores / WORK_S, seconds), hogs, seconds)
            for contender in rotated(list(self.contenders), position):
                self._measure(contender, case, run)

    def _rng(self, purpose: str) -> Random:
        """The randomness of this round for one purpose."""
        return Random(f"{self.chosen.seed} {len(self.results.rounds)} {purpose}")

    def _left(self, seconds: float, hogs: Mapping[str, Sequence[Phase]]) -> float:
        """The cores that the services have beside their hogs when each of them has more work than it can do."""
        rate = OVERLOAD * sum(server.quota for server in self.farm.servers) / WORK_S
        run = Run(short_sessions(self._rng("overload"), rate, seconds), hogs, seconds)
        targets = [server.address for server in self.farm.servers for _ in range(round(server.quota * QUOTA_UNITS))]
        return self._attempt("what hogs leave", lambda: self.farm.play(run, targets, patience_s=0.0)).work_s / seconds

    def _measure(self, contender: str, case: Case, run: Run) -> None:
        try:
            played = self._attempt(f"{case}, {contender}", lambda: self._play(contender, case, run))
            figures = Figures.of(played.answers, WARM_UP_S, PATIENCE_S)
        except FAILURES as error:
            self.results.fail(f"{case}, {contender}", error)
            tell(self.results.failures[-1])
            return
        self.results.add(case, contender, figures)
        shown = ", ".join(f"{name} {getattr(figures, name):,.0f}" for name in ("p50", "p99", "mean", "failures"))
        tell(f"round {len(self.results.rounds)}, {case}, {contender}: {shown}; {_shares(figures)}")

    def _play(self, contender: str, case: Case, run: Run) -> Played:
        with (
            tempfile.TemporaryDirectory() as folder,
            self.contenders[contender](self.farm, case.proxies, Path(folder)) as targets,
        ):
            return self.farm.play(run, targets)

    def _attempt(self, what: str, play: Callable[[], Played]) -> Played:
        """A run that counts. Raises `ProgramFailed` if none of several does."""
        for _ in range(ATTEMPTS):
            played = play()
            flaw = played.conditions.flaw
            if not flaw:
                self.results.conditions.append(played.conditions)
                return played
            self.results.reject(what, flaw)
            tell(self.results.rejected[-1])
        raise ProgramFailed(f"{ATTEMPTS} runs did not count, the last because {flaw}")


def _shares(figures: Figures) -> str:
    """Which part of the answers came from which host."""
    return " ".join(f"{host} {share:.0%}" for host, share in figures.shares.items())


def missing() -> list[str]:
    """What is missing on this machine."""
    packages = [package for package in programs.missing() if package.startswith("haproxy")]
    packages += [package for program, package in NEEDED.items() if shutil.which(program) is None]
    lacking = [f"apt-get install {' '.join(packages)}"] if packages else []
    if os.geteuid():
        lacking.append("root")
    if len(os.sched_getaffinity(0)) < CORES_MIN:
        lacking.append(f"{CORES_MIN} cores")
    return lacking


def run(chosen: argparse.Namespace) -> Results:
    """All rounds."""
    compared = contenders(chosen.balances, chosen.policies)
    results = Results(list(compared), OURS + DEFAULT)
    with ExitStack() as stack:
        stack.callback(programs.end_children)
        farm = stack.enter_context(built(max(chosen.proxies)))
        bench = Bench(farm, chosen, compared, results)
        for _ in range(chosen.rounds):
            bench.run_round()
    return results


def stop(signum: int, _: object) -> None:
    """Exit by an exception, so that everything started is ended; further signals do not interrupt that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + signum)


def main(arguments: Sequence[str]) -> int:
    chosen = options(arguments)
    programs.raise_descriptor_limit()
    if lacking := missing():
        tell(f"needs {' and '.join(lacking)}")
        return 2
    for signum in SIGNALS:
        signal.signal(signum, stop)
    described = setup(["haproxy"])
    try:
        results = run(chosen)
    except NoCgroups as error:
        tell(f"{error}")
        return 2
    except FAILURES as error:
        tell(f"the hosts cannot be made: {error}")
        return 1
    print(text(results, described, chosen.seconds))
    if chosen.json:
        chosen.json.write_text(json.dumps(as_json(results, described), indent=1) + "\n")
    judged = [outcome for case in results.cases for outcome in results.outcomes(case)]
    return 1 if results.failures else exit_status(judged)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
