"""CPU use of the cgroup whose limit is the tightest on this process: its own, or one that contains it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from rproxy.agent.cgroups import OwnCgroups, Place
from rproxy.agent.host_figures import CpuTimes
from rproxy.agent.kernel_file import KernelFile, UnreadableFigure, read_if_there

LIMITS_S: Final = 10.0
"""Limits, and which cgroups this process is in, are read again after this time: they may change."""
_QUOTA: Final = re.compile(rb"(max|\d{1,18}) ([1-9]\d{0,17})\n?")
_COUNT: Final = re.compile(rb"(-?\d{1,18})\n?")
_RANGE: Final = re.compile(rb"(\d{1,6})(?:-(\d{1,6}))?")
_USAGE: Final = re.compile(rb"^usage_usec (\d{1,18})\n", re.MULTILINE)


@attrs.frozen
class CpuLimit:
    """How many CPUs a cgroup may use: a quota, which may be a fraction, or those it is confined to.

    `usage` is the path of the file that says how much CPU time it has used, and `is_unified` whether that is of version
    2.
    """

    cpus: float
    usage: str
    is_unified: bool


class CgroupCpu:
    """CPU times of the cgroup with the tightest limit, if that is less than the host has.

    Of several cgroups with the same limit, the outermost is taken: its use includes that of the others.
    """

    def __init__(self, own: OwnCgroups, host_cpus: Callable[[float], int], *, unlimited: bool) -> None:
        """`host_cpus` returns how many CPUs the host has; it gets the time.

        With `unlimited`, the times of a process without limits are those of its own cgroup, out of all of the host's
        CPUs.
        """
        self._own = own
        self._host_cpus = host_cpus
        self._unlimited = unlimited
        self._limit: CpuLimit | None = None
        self._file: KernelFile[float] | None = None
        self._found_at = float("-inf")
        self._used_s: float | None = None
        """As last read, since `_file` was first."""
        self._busy = 0.0
        """CPU time used, divided by the number of CPUs allowed at the time, in s."""

    def times(self, now: float) -> CpuTimes | None:
        """The times; None if no limit applies: the host's are to be used. `now` is in seconds, monotonic.

        Raises `UnreadableFigure`.
        """
        if now - self._found_at >= LIMITS_S:
            self._find(now)
        if self._limit is None or self._file is None:
            return None
        used_s = self._file.read(now)
        if self._used_s is not None:
            self._busy += max(used_s - self._used_s, 0.0) / self._limit.cpus
        self._used_s = used_s
        return CpuTimes(self._busy, now, 1.0, self._limit.usage)

    def close(self) -> None:
        """Close the file until times are read again."""
        if self._file is not None:
            self._file.close()

    def _find(self, now: float) -> None:
        self._found_at = float("-inf")
        places = self._own.places()
        host = self._host_cpus(now)
        limit = min(cpu_limits(places), key=lambda each: each.cpus, default=None)
        if limit is None or limit.cpus >= host:
            limit = _own_usage(places, host) if self._unlimited else None
        if limit is None or self._file is None or limit.usage != self._file.path:
            self.close()
            self._file = None if limit is None else KernelFile(limit.usage, _parse_usage(limit.is_unified))
            self._used_s = None
        self._limit, self._found_at = limit, now


def cpu_limits(places: Sequence[Place]) -> Iterator[CpuLimit]:
    """All limits of this process's cgroups, the outermost of each hierarchy first. Raises `UnreadableFigure`."""
    accounting = next((place for place in places if "cpuacct" in place.controllers), None)
    for place in places:
        for depth, folder in enumerate(place.folders()):
            if place.is_unified:
                for cpus in (_quota(folder), _confined(f"{folder}/cpuset.cpus.effective")):
                    if cpus is not None:
                        yield CpuLimit(cpus, f"{folder}/cpu.stat", True)
            elif accounting is not None:
                usage = os.path.join(accounting.mount, *place.path[:depth], "cpuacct.usage")
                cpus = _quota_1(folder) if "cpu" in place.controllers else None
                if cpus is not None:
                    yield CpuLimit(cpus, usage, False)
                cpus = _confined_1(folder) if "cpuset" in place.controllers else None
                if cpus is not None and os.path.exists(usage):  # some batch systems make cgroups of cpusets alone
                    yield CpuLimit(cpus, usage, False)


def _own_usage(places: Sequence[Place], host: int) -> CpuLimit:
    """The use of this process's own cgroup, of all CPUs. Raises `UnreadableFigure` if it is in none."""
    for place in sorted(places, key=lambda place: place.is_unified):  # a hybrid host accounts in version 1
        folder = place.folders()[-1]
        if place.is_unified:
            return CpuLimit(host, f"{folder}/cpu.stat", True)
        if "cpuacct" in place.controllers:
            return CpuLimit(host, f"{folder}/cpuacct.usage", False)
    raise UnreadableFigure("no cgroup is mounted that accounts for it")


def _quota(folder: str) -> float | None:
    """CPUs that cpu.max allows; None for no limit, or if the controller is not enabled there."""
    path = f"{folder}/cpu.max"
    text = read_if_there(path)
    if text is None:
        return None
    line = _QUOTA.fullmatch(text)
    if line is None or line[1] == b"0":
        raise UnreadableFigure(f"{path}: not a quota and a period")
    return None if line[1] == b"max" else int(line[1]) / int(line[2])


def _quota_1(folder: str) -> float | None:
    """As `_quota`, of version 1, in which a negative quota is none."""
    quota, period = (_whole(f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota is None or period is None or quota < 0:
        return None
    if not quota or period <= 0:
        raise UnreadableFigure(f"{folder}/cpu.cfs_quota_us: {quota} of {period} µs")
    return quota / period


def _whole(path: str) -> int | None:
    """The whole number in a file; None without that file."""
    text = read_if_there(path)
    if text is None:
        return None
    line = _COUNT.fullmatch(text)
    if line is None:
        raise UnreadableFigure(f"{path}: not a number")
    return int(line[1])


def _confined_1(folder: str) -> int | None:
    """As `_confined`, of version 1, whose older kernels do not say which CPUs are effective."""
    effective = _confined(f"{folder}/cpuset.effective_cpus")
    return _confined(f"{folder}/cpuset.cpus") if effective is None else effective


def _confined(path: str) -> int | None:
    """How many CPUs a cpuset lists, as in ``0-3,8`` (cpuset(7)); None if it has none, which is no limit."""
    ranges = [_RANGE.fullmatch(part) for part in (read_if_there(path) or b"").strip().split(b",") if part]
    count = 0
    for each in ranges:
        if each is None or int(each[1]) > int(each[2] or each[1]):
            raise UnreadableFigure(f"{path}: not a list of CPUs")
        count += int(each[2] or each[1]) - int(each[1]) + 1
    return count or None


def _parse_usage(is_unified: bool) -> Callable[[bytes], float]:
    """What reads a cgroup's CPU time, in s: from cpu.stat, or from cpuacct.usage of version 1."""
    pattern, per_s = (_USAGE, 1e6) if is_unified else (_COUNT, 1e9)

    def parse(text: bytes) -> float:
        line = pattern.search(text) if is_unified else pattern.fullmatch(text)
        if line is None:
            raise UnreadableFigure("no CPU time")
        return int(line[1]) / per_s

    return parse
