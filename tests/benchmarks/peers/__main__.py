"""Runs every peer for every row, round by round, and reports."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import attrs

from rproxy.net.addresses import Address
from tests.benchmarks.machine import setup
from tests.benchmarks.peers import programs, report, rows
from tests.benchmarks.peers.figures import HAPROXY, TITLES, Results
from tests.benchmarks.peers.programs import PEERS, ProgramFailed, Running
from tests.integration.servers import Server

RATE_SHARE: Final = 0.6
CALIBRATIONS: Final = 3
FAILURES: Final = (ProgramFailed, AssertionError, OSError, ValueError, subprocess.SubprocessError)


def names(known: Sequence[str]) -> Any:
    """An argparse type for a comma-separated subset of `known`."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: must be of {', '.join(known)}")
        return [name for name in known if name in chosen]

    return parse


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement; wrk rounds up (2)")
    parser.add_argument("--rows", type=names(list(rows.ROWS)), default=list(rows.ROWS), help=",".join(rows.ROWS))
    parser.add_argument("--peers", type=names(list(TITLES)), default=list(TITLES), help=",".join(TITLES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="every value of every round goes there")
    parsed = parser.parse_args(arguments)
    if parsed.rounds < 1 or parsed.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return parsed


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


@attrs.define
class Bench:
    """Runs the rounds and collects results."""

    backends: Mapping[str, Address]
    """The back-end of every row."""
    results: Results
    load: rows.Load

    def calibrate(self) -> float:
        """A fixed share of HAProxy's rate on kept connections."""
        tell("latency: looking for the rate")
        with self._running(HAPROXY, self.backends["requests"]) as peer:
            rates = [rows.requests(peer, self.load)["requests_per_s"] for _ in range(CALIBRATIONS)]
        return round(RATE_SHARE * median(rates), -2)

    def _running(self, peer: str, backend: Address) -> AbstractContextManager[Running]:
        """In a folder of its own: twistd's pid file has the same name for all."""
        return PEERS[peer](Path(tempfile.mkdtemp(dir=self.load.folder)), backend)

    def run_round(self) -> None:
        """Start new processes for each round: the memory layout of a process would bias all rounds alike."""
        self.results.begin_round()
        number = len(self.results.rounds)
        with ExitStack() as stack:
            running = {
                (peer, backend): self._start(peer, backend, stack)
                for backend in {self.backends[row] for row in self.results.rows}
                for peer in self.results.peers
            }
            for position, row in enumerate(self.results.rows, number):
                for peer in rotated(self.results.peers, position):
                    self._measure(peer, row, running[peer, self.backends[row]])

    def _start(self, peer: str, backend: Address, stack: ExitStack) -> Running | None:
        try:
            return stack.enter_context(self._running(peer, backend))
        except FAILURES as error:
            self._fail(peer, "starting", error)
            return None

    def _measure(self, peer: str, row: str, running: Running | None) -> None:
        if running is None:
            return
        try:
            figures = rows.ROWS[row](running, self.load)
        except FAILURES as error:
            self._fail(peer, row, error)
        else:
            self.results.add(peer, figures)
            shown = ", ".join(f"{key} {value:,.4g}" for key, value in figures.items())
            tell(f"round {len(self.results.rounds)}, {row}, {peer}: {shown}")

    def _fail(self, peer: str, what: str, error: Exception) -> None:
        self.results.fail(peer, what, error)
        tell(self.results.failures[-1])


def rotated(peers: Sequence[str], by: int) -> list[str]:
    by %= len(peers)
    return [*peers[by:], *peers[:by]]


def stop(signum: int, _: object) -> None:
    """Exit by an exception, so that everything started is stopped."""
    sys.exit(128 + signum)


def missing() -> list[str]:
    """What is missing on this machine."""
    packages = programs.missing()
    lacking = [f"apt-get install {' '.join(packages)}"] if packages else []
    connections = rows.IDLE_BEFORE + rows.IDLE
    if programs.connections_max() < connections:
        lacking.append(f"room for {connections:,} connections through a proxy: raise the hard limit of open files")
    return lacking


def run(chosen: argparse.Namespace) -> Bench:
    """All rounds."""
    with ExitStack() as stack:
        stack.callback(programs.end_children)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sink, headed_sink = (Server(rows.discard, port=port) for port in programs.free_pair())
        stack.callback(sink.close)
        stack.callback(headed_sink.close)
        server = stack.enter_context(programs.http_backend(folder))
        backends = {**dict.fromkeys(rows.ROWS, server), "upload": sink.address, "tls-upload": sink.address}
        bench = Bench(backends, Results(chosen.peers, chosen.rows), rows.Load(folder, chosen.seconds))
        if "latency" in chosen.rows:
            bench.load = attrs.evolve(bench.load, rate=bench.calibrate())
        for _ in range(chosen.rounds):
            bench.run_round()
        return bench


def main(arguments: Sequence[str]) -> int:
    chosen = options(arguments)
    programs.raise_descriptor_limit()
    lacking = missing()
    if lacking:
        tell(f"needs {' and '.join(lacking)}")
        return 2
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    described = setup(programs.NEEDED)
    try:
        bench = run(chosen)
    except FAILURES as error:
        tell(f"neither a back-end nor HAProxy may fail: {error}")
        return 1
    results, rate = bench.results, bench.load.rate or None
    print(report.text(results, described, rate))
    if chosen.json:
        chosen.json.write_text(json.dumps(report.as_json(results, described, rate), indent=1) + "\n")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
