"""The options of `rproxy study`. Without what it imports, for which other commands do not wait."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, Final, NoReturn

Wrong = Callable[[str], NoReturn]
"""Ends the process with a message about the arguments."""
DESCRIPTION: Final = """\
Runs the proxy's own pool, monitor and policies against simulated hosts, in virtual time: response times in seconds,
over seeds, with intervals of 95 %. 'rproxy docs choosing' says what was learned."""
USUAL: Final = ("one", "four", "eight", "eight-heavy", "elsewhere", "long")
"""The scenarios that are run if none is named."""


def add_parser(commands: Any, run: Callable[[argparse.Namespace, Wrong], int]) -> None:
    """Add the subcommand to argparse's `commands`; `run` of the parsed options returns the exit status."""
    parser = commands.add_parser("study", help="compare policies by simulation", description=DESCRIPTION)
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="*", help=f"by default {' '.join(USUAL)}")
    parser.add_argument("--list", action="store_true", help="list the scenarios and the policies")
    parser.add_argument("--policies", metavar="NAME,…", help="NAME or NAME:OPTION=VALUE:…; by default all")
    parser.add_argument("--seeds", metavar="N|A-B", default="4", help="1 to N, or A to B (by default 4)")
    parser.add_argument("--seconds", metavar="S", type=float, help="virtual time after the warm-up")
    parser.add_argument("--interval", metavar="S", type=float, help="between probes, in every scenario")
    parser.add_argument("--freshness", metavar="S|off", help="of reports, by probes on demand, in every scenario")
    parser.add_argument("--workers", metavar="N", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--csv", metavar="FILE", help="write a line for each run")
    parser.add_argument("--plots", metavar="DIR", help="write SVG plots (needs matplotlib)")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--ablation", action="store_true", help="change the report's formula in one place at a time")
    kinds.add_argument("--theory", action="store_true", help="check the simulator against queueing theory")
    kinds.add_argument("--trace", metavar="FILE", help="replay an access log (JSON lines) of one service")
    parser.set_defaults(run=lambda options: run(options, parser.error))
