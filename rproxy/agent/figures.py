"""The figures that a host's kernel keeps of its load. Each is read by itself, and raises by itself.

On Linux they come straight from /proc, a few short reads however busy the host is; elsewhere from psutil, which is
imported only there: on Linux it prints a traceback where it may not read /proc/stat.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from io import FileIO
from typing import Final

import attrs

_PROC: Final = sys.platform == "linux"
_STAT: Final = "/proc/stat"
_MEMINFO: Final = "/proc/meminfo"
_SNMP: Final = "/proc/net/snmp"
_FILE_MAX: Final = 1 << 20
"""Bytes read of a file; its head is what counts."""
_NUMBER: Final = r"\d{1,18}"
_CPU: Final = re.compile(rf"cpu +((?:{_NUMBER} ){{3,9}}{_NUMBER}) ?\n")
_EACH_CPU: Final = re.compile(r"^cpu\d+ ", re.MULTILINE)
_GUESTS: Final = 8
"""The fields of a line of /proc/stat that follow (proc(5)) are part of the first two."""


class Unreadable(Exception):
    """A figure cannot be read now; the text says why."""


@attrs.frozen
class CpuTimes:
    """What all CPUs have done since the host was started, in ticks of `per_s`, of which one second has as many."""

    idle: float
    total: float
    per_s: float


def cpu_times() -> CpuTimes:
    """Waiting for a disk is idle. Raises `Unreadable`, or what psutil raises."""
    if not _PROC:
        return _psutil_cpu_times()
    text = _read(_STAT)
    line = _CPU.match(text)
    if line is None:
        raise Unreadable(f"{_STAT}: it does not begin with the times of all CPUs")
    times = [int(field) for field in line[1].split()[:_GUESTS]]
    cpus = len(_EACH_CPU.findall(text)) or os.cpu_count() or 1
    return CpuTimes(sum(times[3:5]), sum(times), os.sysconf("SC_CLK_TCK") * cpus)


def memory() -> int:
    """Percent of the memory that is not available to programs. Raises as `cpu_times`."""
    if not _PROC:
        import psutil

        return min(round(psutil.virtual_memory().percent), 100)
    text = _read(_MEMINFO)
    total, available = (_kilobytes(text, name) for name in ("MemTotal", "MemAvailable"))
    if not 0 <= available <= total != 0:
        raise Unreadable(f"{_MEMINFO}: {available} of {total} kB available")
    return round(100 * (total - available) / total)


def _kilobytes(text: str, name: str) -> int:
    line = re.search(rf"^{name}: *({_NUMBER}) kB\n", text, re.MULTILINE)
    if line is None:
        raise Unreadable(f"{_MEMINFO}: no line {name}")
    return int(line[1])


def established() -> int:
    """The host's established TCP connections, both families. Raises as `cpu_times`.

    On Linux by the kernel's own counter (RFC 4022's tcpCurrEstab, which includes CLOSE-WAIT).
    """
    if not _PROC:
        import psutil

        return sum(each.status == psutil.CONN_ESTABLISHED for each in psutil.net_connections("tcp"))
    lines = re.findall(r"^Tcp: (.*)\n", _read(_SNMP), re.MULTILINE)
    if len(lines) != 2:
        raise Unreadable(f"{_SNMP}: no counters of TCP")
    values = dict(zip(*(line.split() for line in lines), strict=False))
    if re.fullmatch(_NUMBER, count := values.get("CurrEstab", "")) is None:
        raise Unreadable(f"{_SNMP}: no count of established connections")
    return int(count)


def _psutil_cpu_times() -> CpuTimes:
    import psutil

    times = psutil.cpu_times()
    return CpuTimes(times.idle, sum(times), psutil.cpu_count() or 1)


def _read(path: str) -> str:
    """The file, of which there may be another one now than the last time. Raises `Unreadable`."""
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable(f"{path}: not a regular file")
            return _bytes(file).decode("ascii", "replace")
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from None


def _open_at_once(path: str, flags: int) -> int:
    """A pipe in the file's place is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _bytes(file: FileIO) -> bytes:
    content = bytearray()
    while len(content) < _FILE_MAX and (block := file.read(1 << 16)):
        content += block
    return bytes(content)
