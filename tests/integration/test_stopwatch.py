"""What is waited for counts, and time in which a process had no CPU does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.integration.stopwatch import Stopwatch, remember

WORK_S = 0.1
WORKERS = 4
WORK = f"""
import os, sys, time
os.sched_setaffinity(0, {{int(sys.argv[1])}})
while time.process_time() < {WORK_S}:
    pass
print(flush=True)
"""


def test_time_that_is_slept_counts() -> None:
    watch = Stopwatch()
    time.sleep(0.2)
    assert 0.19 <= watch.own_s <= watch.wall_s


def test_time_in_which_children_have_no_cpu_does_not_count() -> None:
    """All on one CPU: the last one has done its part when they all have."""
    cpu = min(os.sched_getaffinity(0))
    watch = Stopwatch()
    command = [sys.executable, "-c", WORK + "sys.stdin.read()", str(cpu)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "\n"
    waited_s = watch.wall_s - watch.own_s
    for worker in workers:
        worker.communicate("")
    assert waited_s > WORK_S


def test_what_a_child_that_has_ended_has_waited_is_remembered() -> None:
    cpu = min(os.sched_getaffinity(0))
    watch = Stopwatch()
    workers = [subprocess.Popen([sys.executable, "-c", WORK, str(cpu)], stdout=subprocess.DEVNULL) for _ in range(2)]
    for worker in workers:
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    there_s = watch.wall_s - watch.own_s
    for worker in workers:
        remember(worker.pid)
        worker.wait()
    assert watch.wall_s - watch.own_s >= there_s > 0.01
