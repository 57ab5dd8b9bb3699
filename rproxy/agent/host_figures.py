"""The load figures of this host's kernel. Each function reads one figure, and fails independently of the others.

On Linux they are read from /proc, with a few short reads however busy the host is; elsewhere from psutil, which is
imported there only: on Linux, importing it prints a traceback if /proc/stat cannot be read.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from io import FileIO
from typing import Final

import attrs

from rproxy.net.files import open_nonblocking

_PROC: Final = sys.platform == "linux"
_STAT: Final = "/proc/stat"
_MEMINFO: Final = "/proc/meminfo"
_SNMP: Final = "/proc/net/snmp"
_FILE_MAX: Final = 1 << 20
"""Bytes read of a file. What is needed is at its beginning."""
_NUMBER: Final = r"\d{1,18}"
_CPU: Final = re.compile(rf"cpu +((?:{_NUMBER} ){{3,9}}{_NUMBER}) ?\n")
_EACH_CPU: Final = re.compile(r"^cpu\d+ ", re.MULTILINE)
_TIMES: Final = 8
"""Fields of a cpu line of /proc/stat to add up. Guest times follow, which the first two include (proc(5))."""


class UnreadableFigure(Exception):
    """A figure cannot be read now; the message says why, for the log."""


@attrs.frozen
class CpuTimes:
    """Time of all CPUs together since the host started, in ticks, of which `per_s` pass in a second."""

    idle: float
    total: float
    per_s: float


def cpu_times() -> CpuTimes:
    """CPU times now. Waiting for I/O counts as idle. Raises `UnreadableFigure`, or what psutil raises."""
    if not _PROC:
        return _psutil_cpu_times()
    text = _read(_STAT)
    line = _CPU.match(text)
    if line is None:
        raise UnreadableFigure(f"{_STAT}: it does not begin with the times of all CPUs")
    times = [int(field) for field in line[1].split()[:_TIMES]]
    cpus = len(_EACH_CPU.findall(text)) or os.cpu_count() or 1
    return CpuTimes(sum(times[3:5]), sum(times), os.sysconf("SC_CLK_TCK") * cpus)


def memory() -> int:
    """The percentage of memory that is not available to programs, 0..100. Raises as `cpu_times`."""
    if not _PROC:
        import psutil

        return min(round(psutil.virtual_memory().percent), 100)
    text = _read(_MEMINFO)
    total, available = (_kilobytes(text, name) for name in ("MemTotal", "MemAvailable"))
    if not 0 <= available <= total != 0:
        raise UnreadableFigure(f"{_MEMINFO}: {available} of {total} kB available")
    return round(100 * (total - available) / total)


def _kilobytes(text: str, name: str) -> int:
    line = re.search(rf"^{name}: *({_NUMBER}) kB\n", text, re.MULTILINE)
    if line is None:
        raise UnreadableFigure(f"{_MEMINFO}: no line {name}")
    return int(line[1])


def established() -> int:
    """The number of the host's established TCP connections, IPv4 and IPv6. Raises as `cpu_times`.

    On Linux, this is the kernel's counter: tcpCurrEstab of RFC 4022, which includes CLOSE-WAIT.
    """
    if not _PROC:
        import psutil

        return sum(each.status == psutil.CONN_ESTABLISHED for each in psutil.net_connections("tcp"))
    lines = re.findall(r"^Tcp: (.*)\n", _read(_SNMP), re.MULTILINE)
    if len(lines) != 2:
        raise UnreadableFigure(f"{_SNMP}: no counters of TCP")
    values = dict(zip(*(line.split() for line in lines), strict=False))
    if re.fullmatch(_NUMBER, count := values.get("CurrEstab", "")) is None:
        raise UnreadableFigure(f"{_SNMP}: no count of established connections")
    return int(count)


def _psutil_cpu_times() -> CpuTimes:
    import psutil

    times = psutil.cpu_times()
    return CpuTimes(times.idle, sum(times), psutil.cpu_count() or 1)


def _read(path: str) -> str:
    """The text of a file, opened anew: it may have been replaced. Raises `UnreadableFigure`."""
    try:
        with open(path, "rb", buffering=0, opener=open_nonblocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnreadableFigure(f"{path}: not a regular file")
            return _read_head(file).decode("ascii", "replace")
    except OSError as error:
        raise UnreadableFigure(f"{path}: {error.strerror or error}") from None


def _read_head(file: FileIO) -> bytes:
    content = bytearray()
    while len(content) < _FILE_MAX and (block := file.read(1 << 16)):
        content += block
    return bytes(content)
