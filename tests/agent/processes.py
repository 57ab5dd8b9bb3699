"""Child processes of a test, and waiting for them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater


async def within(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until it is met, on the reactor."""
    from twisted.internet import reactor

    clock: Any = reactor
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await deferLater(clock, 0.01)


async def all_reaped() -> None:
    """No child process is left; a process that was killed takes a moment to die."""
    await within(lambda: not children())


def children() -> list[int]:
    """Of this process, zombies included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(") ")[2].split()
            if int(fields[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found
