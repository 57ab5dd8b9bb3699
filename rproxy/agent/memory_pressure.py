"""Whether programs wait for memory: from the kernel's pressure stall information (PSI), or else from swapping.

The protocol has no field for it, and the percentage in use does not show it: a host may be well at 99 %, and thrash at
90 % while its working set does not fit. So the reported percentage is raised under pressure, to where it counts.

PSI (Documentation/accounting/psi.rst of Linux): "full" is the share of time in which all programs that had anything to
do waited for memory at once. "some", in which at least one did, is not used: one program that is kept at a limit of its
own raises it for the whole host. Swapping counts only in both directions at once: a host that swaps in after a
program has ended, or out what was idle, is not short of memory.
"""

from __future__ import annotations

import re
from typing import Final

from twisted.logger import Logger

from rproxy.agent.host_figures import PROC
from rproxy.agent.kernel_file import KernelFile, UnreadableFigure, read_file

STALLED: Final = 10.0
"""Percentage of the last 10 s in which programs waited, from which there is pressure. It ends below half of that."""
SWAPPED: Final = 100.0
"""Pages a second that are swapped in, and out, from which there is pressure. It ends below half of that."""
RAISED: Final = 96
"""Memory is reported as at least this percentage under pressure, and as 100 when it is five times as high."""
PRESSURE_S: Final = 2.0
"""Time between readings. The kernel's averages are as old."""
SWAP_S: Final = 10.0
"""The same of the counters of swapping: the average is over this time."""
_FULL: Final = re.compile(rb"^full avg10=(\d{1,3}\.\d\d) ", re.MULTILINE)
_SWAPPED: Final = re.compile(rb"^pswp(?:in|out) (\d{1,18})\n", re.MULTILINE)


class MemoryPressure:
    """The pressure on a cgroup's memory, or on the host's. It logs when it begins and ends."""

    log = Logger()

    def __init__(self, proc: str = PROC) -> None:
        """`proc` is the folder where /proc is mounted."""
        self._host = f"{proc}/pressure/memory"
        self._swapping = _Swapping(f"{proc}/vmstat")
        self._file: KernelFile[float] | None = None
        self._read_at = float("-inf")
        self._raised = 0

    def raised(self, now: float, cgroup: str | None) -> int:
        """The least percentage of memory to report, 0 without pressure. `now` is in seconds, monotonic.

        `cgroup` is the path of the cgroup's file of PSI; None for the host's. Where one cannot be
        read, the next counts: the cgroup's, the host's, swapping. Without any there is no pressure. Does not raise.
        """
        if now - self._read_at >= PRESSURE_S:
            self._read_at = now
            self._update(self._severity(now, cgroup))
        return self._raised

    def close(self) -> None:
        """Close the file until it is read again."""
        if self._file is not None:
            self._file.close()

    def _update(self, severity: float) -> None:
        """`severity` is 1 where pressure begins."""
        was_raised = self._raised > 0
        if severity >= (0.5 if was_raised else 1.0):
            self._raised = min(round(RAISED - 1 + max(severity, 1.0)), 100)
        else:
            self._raised = 0
        if self._raised and not was_raised:
            self.log.warn("programs wait for memory: reporting it as at least {raised} % used", raised=self._raised)
        elif was_raised and not self._raised:
            self.log.info("programs no longer wait for memory")

    def _severity(self, now: float, cgroup: str | None) -> float:
        for path in (cgroup, self._host):
            if path is not None and (stalled := self._stalled(path, now)) is not None:
                return stalled / STALLED
        return self._swapping.pages_per_s(now) / SWAPPED

    def _stalled(self, path: str, now: float) -> float | None:
        """The percentage in a file of PSI; None if it cannot be read."""
        if self._file is None or self._file.path != path:
            self.close()
            self._file = KernelFile(path, _parse_full)
        try:
            return self._file.read(now)
        except UnreadableFigure:
            return None


class _Swapping:
    """How many pages a second are swapped both in and out, by the counters of /proc/vmstat."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._since: tuple[float, list[int]] | None = None
        """A time, and the pages swapped in and out by then."""
        self._rate = 0.0

    def pages_per_s(self, now: float) -> float:
        """The average over the last `SWAP_S` or more; 0 at first, and if it cannot be read."""
        if self._since is not None and now - self._since[0] < SWAP_S:
            return self._rate
        try:
            counts = [int(count) for count in _SWAPPED.findall(read_file(self._path))]
        except UnreadableFigure:
            counts = []
        if len(counts) != 2:
            self._since, self._rate = None, 0.0
            return 0.0
        if self._since is not None:
            at, before = self._since
            self._rate = max(min(map(int.__sub__, counts, before)), 0) / (now - at)
        self._since = now, counts
        return self._rate


def _parse_full(text: bytes) -> float:
    line = _FULL.search(text)
    if line is None:
        raise UnreadableFigure("no pressure")
    return float(line[1])
