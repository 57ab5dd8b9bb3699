"""What a benchmark's report says of the machine and the programs."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

import twisted
from tests.benchmarks.peers import programs


def setup(measured: Iterable[str]) -> dict[str, str]:
    """The machine, and the versions of the programs `measured` and of those that run rproxy."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "CPU": f"{cpu[1] if cpu else platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "load average before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        **{program: programs.version(program) for program in measured},
        "Python": platform.python_version(),
        "Twisted": twisted.__version__,
    }
