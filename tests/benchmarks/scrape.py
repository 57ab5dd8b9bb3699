"""What a scrape of /metrics takes, and what sessions feel of it: `python -m tests.benchmarks.scrape`. Takes a minute.

A proxy with 1,000 back-ends carries sessions as in `tests.benchmarks.admin`, beside which its page of metrics is
scraped as often as it is rendered anew. What counts is how long a scrape takes, and by how much more the longest wait
of a session was than in peace: the medians of the rounds. Beside that, what counting a session takes in a loop.
Needs Linux. Exits with status 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import attrs

from rproxy.observe.service_figures import ServiceFigures
from rproxy.pool.backend import Backend, Registration
from rproxy.sessions.endings import Ending
from rproxy.sessions.link import NO_LINK
from rproxy.sessions.record import SessionRecord
from tests.benchmarks.admin import WAIT_MAX_MS, Waits, parsed, parser_of, prepare, running
from tests.benchmarks.outcomes import Outcome, at_most, exit_status, table

SCRAPE_MAX_MS: Final = 100.0
SESSION_MAX_US: Final = 1.0
COLUMNS: Final = ("peace", "beside", "more")
SESSIONS: Final = 200_000


@attrs.frozen
class Round:
    peace: Waits
    scraped: Waits
    scrapes_ms: list[float]


def run(carrier: str, chosen: argparse.Namespace) -> list[Round]:
    with tempfile.TemporaryDirectory() as name, running(carrier, chosen, Path(name)) as bench:
        rounds = []
        for _ in range(chosen.rounds):
            peace, _ = bench.beside()
            scraped, (printed,) = bench.beside("scrapes")
            rounds.append(Round(peace, scraped, [1000 * wait for wait in json.loads(printed)]))
        return rounds


def outcomes(rounds: Sequence[Round]) -> list[Outcome]:
    scrapes = [wait for one in rounds for wait in one.scrapes_ms]
    found = [
        at_most("scrape, ms", ["", f"{median(scrapes):.0f}", ""], median(scrapes), SCRAPE_MAX_MS),
        Outcome("… longest", ["", f"{max(scrapes):.0f}", ""]),
    ]
    for name, kind in (("longest wait ms, session", "kept_ms"), ("… new session", "new_ms")):
        before, beside = ([getattr(each, kind) for each in waits] for waits in _waits(rounds))
        more = median(late - early for early, late in zip(before, beside, strict=True))
        cells = [f"{median(before):.1f}", f"{median(beside):.1f}", f"{max(more, 0):.1f}"]
        found.append(at_most(name, cells, more, WAIT_MAX_MS))
    failed = [sum(each.failed for each in waits) for waits in _waits(rounds)]
    found.append(Outcome("… sessions that failed", [*map(str, failed), ""], "none", not any(failed)))
    return found


def _waits(rounds: Sequence[Round]) -> tuple[list[Waits], list[Waits]]:
    return [one.peace for one in rounds], [one.scraped for one in rounds]


def session_us(sessions: int = SESSIONS) -> float:
    """CPU time in µs that the end of a session takes to be counted, the loop included."""
    backend = Backend("10.0.0.1", 80, Registration(("10.0.0.1", 5556), 1, 20.0, 100))
    record = SessionRecord(
        "web", "80", NO_LINK, backend, 1, 5.0, 0.0, 0.0012, 3.2, 100, 2000, Ending.CLOSED, 1, 0.3, 0.02
    )
    figures = ServiceFigures(time.monotonic)
    began = time.process_time()
    for _ in range(sessions):
        figures.session_ended(record)
    return (time.process_time() - began) / sessions * 1e6


def options(arguments: Sequence[str]) -> argparse.Namespace:
    return parsed(parser_of("scrape", __doc__, agents=1000, seconds=4.0), arguments)


def main(arguments: Sequence[str]) -> int:
    chosen = options(arguments)
    prepare()
    cost_us = min(session_us() for _ in range(5))
    found = [at_most("counting a session, µs", ["", f"{cost_us:.2f}", ""], cost_us, SESSION_MAX_US)]
    print(f"{table(COLUMNS, found)}\n", flush=True)
    for carrier in chosen.carriers:
        judged = outcomes(run(carrier, chosen))
        print(f"{carrier.capitalize()}:\n\n{table(COLUMNS, judged)}\n", flush=True)
        found += judged
    return exit_status(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
