"""How long something takes, on a machine that may be busy with other tests: what waits for a CPU is not slow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

SHARE_MIN: Final = 0.1
"""`Stopwatch.own_s` is at least so much of `wall_s`: what hangs fails also where the machine is always busy."""
_ended: dict[int, float] = {}


class Stopwatch:
    """Counts from when it is made. Also for processes that this one has started: see `own_s`."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waited = _waited_s()

    @property
    def wall_s(self) -> float:
        """By the clock."""
        return time.monotonic() - self._began

    @property
    def own_s(self) -> float:
        """Without the time in which this process, or the one of its children that has waited longest, could have run
        and had no CPU. Timers, sockets and locks that something waits for are counted.
        """
        waited = {pid: waited_s - self._waited.get(pid, 0.0) for pid, waited_s in _waited_s().items()}
        wall_s, here_s = self.wall_s, waited.pop(os.getpid())
        return max(wall_s - here_s - max([0.0, *waited.values()]), SHARE_MIN * wall_s)


def remember(pid: int) -> None:
    """Keep how long a child has waited, that has ended and is about to be waited for."""
    _ended[pid] = _of_process_s(pid)


def _waited_s() -> dict[int, float]:
    """How long this process, and each of its children, was ready to run and did not, in s."""
    return _ended | {pid: _of_process_s(pid) for pid in (os.getpid(), *_children())}


def _children() -> Iterator[int]:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended, or the kernel does not tell
            yield from map(int, thread.joinpath("children").read_text().split())


def _of_process_s(pid: int) -> float:
    """Linux, Documentation/scheduler/sched-stats.rst: the second number is the time spent waiting on a runqueue."""
    waited_ns = 0
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                waited_ns += int(thread.joinpath("schedstat").read_text().split()[1])
    return waited_ns / 1e9
