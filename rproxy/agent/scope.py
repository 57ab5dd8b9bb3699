"""Whose CPU and memory an agent reports: the host's, or those of its cgroup, as in a container."""

from __future__ import annotations

from enum import StrEnum

from rproxy.agent.cgroup_cpu import CgroupCpu
from rproxy.agent.cgroup_memory import CgroupMemory
from rproxy.agent.cgroups import OwnCgroups
from rproxy.agent.host_figures import IS_LINUX, PROC, CpuTimes, HostFigures, PsutilFigures
from rproxy.agent.memory_pressure import MemoryPressure
from rproxy.agent.sampler import Figures


class Scope(StrEnum):
    """Whose CPU and memory are reported. TCP connections are always those of the network namespace."""

    HOST = "host"
    CGROUP = "cgroup"
    """Use of the cgroup's limit; for a resource without a limit, the cgroup's own use as a share of the host."""
    AUTO = "auto"
    """Use of the cgroup's limit; for a resource without a limit, the use of the host."""


def figures(scope: Scope) -> Figures:
    """The figures of this machine. Elsewhere than on Linux, which alone has cgroups, they are the host's."""
    return ScopedFigures(scope) if IS_LINUX else PsutilFigures()


class ScopedFigures:
    """The figures of a scope, from the files of Linux. Memory is raised under memory pressure."""

    def __init__(self, scope: Scope, proc: str = PROC) -> None:
        """`proc` is the folder where /proc is mounted."""
        self._host = HostFigures(proc)
        self._pressure = MemoryPressure(proc)
        self._cpu: CgroupCpu | None = None
        self._memory: CgroupMemory | None = None
        if scope is not Scope.HOST:
            own, unlimited = OwnCgroups(proc), scope is Scope.CGROUP
            self._cpu = CgroupCpu(own, self._host.cpus, unlimited=unlimited)
            self._memory = CgroupMemory(own, self._host.total_memory, unlimited=unlimited)
        self.established = self._host.established  # not by way of a method: it is called for every probe

    def cpu_times(self, now: float) -> CpuTimes:
        """As `Figures.cpu_times`."""
        times = None if self._cpu is None else self._cpu.times(now)
        return self._host.cpu_times(now) if times is None else times

    def memory(self, now: float) -> int:
        """As `Figures.memory`, raised under memory pressure."""
        used = None if self._memory is None else self._memory.percentage(now)
        if used is None:
            used = self._host.memory(now)
        limit = None if self._memory is None else self._memory.limit
        return max(used, self._pressure.raised(now, None if limit is None else limit.pressure))

    def close(self) -> None:
        """As `Figures.close`."""
        for each in (self._host, self._pressure, self._cpu, self._memory):
            if each is not None:
                each.close()
