"""The load figures of this host's kernel. Each is read independently of the others.

On Linux they are read from /proc, by one system call each however busy the host is; elsewhere from psutil, which is
imported there only: on Linux, importing it prints a traceback if /proc/stat cannot be read.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final

import attrs

from rproxy.agent.kernel_file import KernelFile, UnreadableFigure

IS_LINUX: Final = sys.platform == "linux"
PROC: Final = "/proc"
_STAT: Final = re.compile(rb"cpu +((?:\d{1,18} ){3,9}\d{1,18}) ?\n")
_MEMINFO: Final = re.compile(rb"(?:.*\n)*?MemTotal: *(\d{1,18}) kB\n(?:.*\n)*?MemAvailable: *(\d{1,18}) kB\n")
_SNMP: Final = (
    b"\nTcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab ",
    b"\nTcp: ",
)
"""Beginnings of two lines of /proc/net/snmp: names, and values in the same order, that of RFC 4022 in every Linux."""
_TIMES: Final = 8
"""Fields of a cpu line of /proc/stat to add up. Guest times follow, which the first two include (proc(5))."""
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK") if IS_LINUX else 1


@attrs.frozen
class CpuTimes:
    """CPU time since some moment: how much was used, of how much there was. `total` grows by `per_s` in a second.

    `of` says whose times they are: those of different hosts or cgroups cannot be compared.
    """

    busy: float
    total: float
    per_s: float
    of: str = ""


@attrs.frozen
class MemorySize:
    """A host's memory, in bytes."""

    total: int
    available: int
    """What programs can have without swapping, by the kernel's estimate: page cache counts as available."""


class HostFigures:
    """The figures of this host, from /proc. Every `now` is in seconds, monotonic; errors are `UnreadableFigure`."""

    def __init__(self, proc: str = PROC) -> None:
        """`proc` is the folder where /proc is mounted."""
        self._stat = KernelFile(f"{proc}/stat", parse_stat)
        self._meminfo = KernelFile(f"{proc}/meminfo", parse_meminfo)
        self._snmp = KernelFile(f"{proc}/net/snmp", parse_snmp)
        self.established = self._snmp.read
        """The number of established TCP connections of this network namespace, IPv4 and IPv6.

        This is the kernel's counter: tcpCurrEstab of RFC 4022, which includes CLOSE-WAIT. The cheaper
        /proc/net/sockstat counts sockets in every state but TIME-WAIT.
        """

    def cpu_times(self, now: float) -> CpuTimes:
        """Times of all CPUs together. Waiting for I/O counts as idle."""
        return self._stat.read(now)

    def cpus(self, now: float) -> int:
        """The number of CPUs, whatever this process is confined to."""
        try:
            return round(self._stat.read(now).per_s / _TICKS_PER_S)
        except UnreadableFigure:
            return os.cpu_count() or 1

    def memory(self, now: float) -> int:
        """The percentage of memory that is not available to programs, 0..100."""
        size = self._meminfo.read(now)
        return round(100 * (size.total - size.available) / size.total)

    def total_memory(self, now: float) -> int:
        """The size of the memory, in bytes."""
        return self._meminfo.read(now).total

    def close(self) -> None:
        """Close the files until figures are read again."""
        for file in (self._stat, self._meminfo, self._snmp):
            file.close()


class PsutilFigures:
    """The figures of a host that has no /proc, or another one than Linux's. Methods raise what psutil raises."""

    def cpu_times(self, now: float) -> CpuTimes:
        """As `HostFigures.cpu_times`."""
        import psutil

        times = psutil.cpu_times()
        total = sum(times)
        return CpuTimes(total - times.idle, total, psutil.cpu_count() or 1)

    def memory(self, now: float) -> int:
        """As `HostFigures.memory`."""
        import psutil

        return min(round(psutil.virtual_memory().percent), 100)

    def established(self, now: float) -> int:
        """The number of the host's established TCP connections, IPv4 and IPv6."""
        import psutil

        return sum(each.status == psutil.CONN_ESTABLISHED for each in psutil.net_connections("tcp"))

    def close(self) -> None:
        """Nothing is open."""


def parse_stat(text: bytes) -> CpuTimes:
    """The times of all CPUs in /proc/stat, in ticks. Raises `UnreadableFigure`, as all these functions do."""
    line = _STAT.match(text)
    if line is None:
        raise UnreadableFigure("it does not begin with the times of all CPUs")
    times = [int(field) for field in line[1].split()[:_TIMES]]
    total = sum(times)
    cpus = text.count(b"\ncpu") or os.cpu_count() or 1
    return CpuTimes(total - sum(times[3:5]), total, _TICKS_PER_S * cpus)


def parse_meminfo(text: bytes) -> MemorySize:
    """The sizes in /proc/meminfo."""
    lines = _MEMINFO.match(text)
    if lines is None:
        raise UnreadableFigure("no lines MemTotal and MemAvailable")
    total, available = int(lines[1]), int(lines[2])
    if not 0 <= available <= total != 0:
        raise UnreadableFigure(f"{available} of {total} kB available")
    return MemorySize(1024 * total, 1024 * available)


def parse_snmp(text: bytes) -> int:
    """The count of established connections in /proc/net/snmp (RFC 4022)."""
    names = text.find(_SNMP[0])
    values = text.rfind(_SNMP[1])
    if 0 <= names < values:
        fields = text[values:].split(b" ", 10)
        if len(fields) > 10 and fields[9].isdigit():
            return int(fields[9])
    raise UnreadableFigure("no count of established connections of TCP")
