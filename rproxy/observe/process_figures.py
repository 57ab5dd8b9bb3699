"""CPU, memory and descriptors of this process."""

from __future__ import annotations

import os
import resource
from collections.abc import Generator
from typing import Final, NamedTuple

from psutil import Process

_FOLDERS: Final = ("/proc/self/fd", "/dev/fd")
_AT_ONCE: Final = 500
"""Descriptors counted in one go: a tenth of a millisecond."""


class ProcessFigures(NamedTuple):
    """Fields are None where the system does not provide them."""

    cpu_seconds: float
    resident_bytes: int
    virtual_bytes: int
    started: float
    """Unix time, in s."""
    open_fds: int | None
    max_fds: int | None
    """None for no limit."""


def process_figures(open_fds: int | None) -> ProcessFigures:
    """Of this process now."""
    process = Process()
    with process.oneshot():
        cpu, memory, started = process.cpu_times(), process.memory_info(), process.create_time()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return ProcessFigures(
        cpu.user + cpu.system,
        memory.rss,
        memory.vms,
        started,
        open_fds,
        None if limit == resource.RLIM_INFINITY else limit,
    )


def open_descriptors() -> Generator[bytes, None, int | None]:
    """Count the open descriptors of this process; None where that is not possible. Yields b"" between its steps."""
    folder = next(filter(os.path.isdir, _FOLDERS), None)
    if folder is None:
        return None
    if folder.startswith("/proc") and (size := os.stat(folder).st_size):  # their number, since Linux 6.2
        return size
    count = 0
    with os.scandir(folder) as entries:
        for _ in entries:
            count += 1
            if count % _AT_ONCE == 0:
                yield b""
    return count - 1  # without the folder itself
