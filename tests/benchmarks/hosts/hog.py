"""Other work of a host that comes and goes: `... QUOTA`, the host's quota in cores.

A line on standard input is a run: JSON, when it starts (monotonic clock) and its phases (`schedule.Phase`). In each the
hog takes its share of the quota, in small pieces, and those that are late one after the other until the phase ends. The
answer, a line, is the start of the run, and the CPU time in s that the hog wanted and that it had. Ends with its
standard input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Final

from tests.benchmarks.hosts.schedule import Phase
from tests.benchmarks.hosts.service import burn

PIECE_S: Final = 0.02
"""A share is taken once in this time."""


def work(phases: Sequence[Phase], start: float, quota: float) -> tuple[float, float]:
    """The CPU time in s that was wanted and had."""
    wanted_s = had_s = 0.0
    for phase in phases:
        due, end = start + phase.begins_s, start + phase.ends_s
        while due < end:
            time.sleep(max(due - time.monotonic(), 0.0))
            piece_s = min(PIECE_S, end - due)
            wanted_s += piece_s * phase.share * quota
            due += piece_s
            if time.monotonic() < end:
                burn(piece_s * phase.share * quota)
                had_s += piece_s * phase.share * quota
    return wanted_s, had_s


def main(quota: str) -> None:
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        start, phases = json.loads(line)
        print(json.dumps([start, *work([Phase(*phase) for phase in phases], start, float(quota))]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
