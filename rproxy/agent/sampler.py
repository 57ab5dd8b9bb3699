"""Samplers: where an agent gets the load that it reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import attrs
from twisted.logger import Logger

from rproxy.agent.host_figures import CpuTimes
from rproxy.agent.kernel_file import UnreadableFigure
from rproxy.timing.rate_limit import RateLimit
from rproxy.wire.pdu import COUNT_MAX

SAMPLE_INTERVAL_S: Final = 0.5
"""CPU use younger than this is reported again: over less time it is noise."""
MEMORY_INTERVAL_S: Final = 2.0
"""Memory younger than this is reported again: it changes slowly."""
CPU_STALL_S: Final = 10.0
"""If CPU times have not grown for this long, CPU use is unknown."""
LOG_INTERVAL_S: Final = 5.0
"""At most one line per figure in this time says whether it can be read."""

T = TypeVar("T")


@attrs.frozen
class Load:
    """One sample; None means unknown.

    `cpu`, `memory` and `application` are percentages, 0..100; `tcp` is the number of established TCP connections, at
    most `COUNT_MAX`.
    """

    cpu: int | None = None
    memory: int | None = None
    tcp: int | None = None
    application: int | None = None


class Sampler(Protocol):
    """A source of load figures: the host, fixed values, or others."""

    def sample(self) -> Load:
        """The load now, or as of a short time ago. Called for every probe, in the reactor's thread: must not block.

        If it raises, whatever the exception, all figures are reported as unknown.
        """


class Figures(Protocol):
    """Where the figures of a host, or of a part of it, are read. Every `now` is in seconds, monotonic.

    The three figures are read in any order, each whether or not the others can be, and may raise any exception where
    they cannot; `UnreadableFigure` has a reason for the log.
    """

    def cpu_times(self, now: float) -> CpuTimes:
        """CPU times until now. Called at most twice a second."""

    def memory(self, now: float) -> int:
        """The percentage of memory that is not available to programs, 0..100. Called at most twice a second."""

    def established(self, now: float) -> int:
        """The number of established TCP connections. Called for every probe."""

    def close(self) -> None:
        """Close all files. Called when the agent stops; figures that are read later open them again."""


class HostSampler:
    """Samples this host. A figure that cannot be read is unknown, which is logged; the others are not affected.

    CPU use is the average since the previous sample (the report, chapter 4.1.1), and therefore unknown at first.
    """

    def __init__(self, seconds: Callable[[], float], figures: Figures) -> None:
        """`seconds` is a monotonic clock."""
        self._seconds = seconds
        self._figures = figures
        self._read_cpu = _FigureReader("CPU use", _CpuUse(figures.cpu_times).percentage).read
        self._read_memory = _FigureReader("memory", figures.memory).read
        self._read_tcp = _FigureReader("TCP connections", figures.established).read
        self._load = Load()
        self._cpu_at = self._memory_at = float("-inf")
        self.sample()

    def sample(self) -> Load:
        """As `Sampler.sample`: TCP connections now, the rest as of a short time ago. Does not raise."""
        now = self._seconds()
        cpu, memory = self._load.cpu, self._load.memory
        if now - self._cpu_at >= SAMPLE_INTERVAL_S:
            self._cpu_at = now
            cpu = self._read_cpu(now)
        if now - self._memory_at >= MEMORY_INTERVAL_S:
            self._memory_at = now
            memory = self._read_memory(now)
        tcp = self._read_tcp(now)
        if tcp is not None and tcp > COUNT_MAX:
            tcp = COUNT_MAX
        load = self._load
        if cpu != load.cpu or memory != load.memory or tcp != load.tcp:
            self._load = Load(cpu, memory, tcp)
        return self._load

    def close(self) -> None:
        """Close the files until the next sample."""
        self._figures.close()


class _CpuUse:
    """CPU use, averaged over at least `SAMPLE_INTERVAL_S` by both the agent's clock and the kernel's times.

    Either may stand still for a while, as in a virtual machine.
    """

    def __init__(self, cpu_times: Callable[[float], CpuTimes]) -> None:
        self._cpu_times = cpu_times
        self._since: tuple[float, CpuTimes] | None = None
        """The time and the CPU times at which the next average begins."""
        self._percentage: int | None = None

    def percentage(self, now: float) -> int | None:
        """The last average, 0..100 of all CPU time there was; None before the first. Raises as `Figures.cpu_times`."""
        try:
            times = self._cpu_times(now)
        except Exception:
            self._since = self._percentage = None
            raise
        if self._since is None or times.of != self._since[1].of or times.total < self._since[1].total:
            # times of another cgroup, or decreasing ones, which may be another host's
            self._since, self._percentage = (now, times), None
            return None
        at, before = self._since
        total = times.total - before.total
        if now - at >= SAMPLE_INTERVAL_S and total >= SAMPLE_INTERVAL_S * times.per_s:
            self._since = now, times
            self._percentage = min(max(round(100 * (times.busy - before.busy) / total), 0), 100)
        elif now - at >= CPU_STALL_S:
            self._percentage = None
            raise UnreadableFigure("its times stand still")
        return self._percentage


class _FigureReader(Generic[T]):
    """Reads one figure, and logs when it becomes unreadable and when it is readable again."""

    log = Logger()

    def __init__(self, name: str, read: Callable[[float], T | None]) -> None:
        """`read` is called with the time; it returns None for unknown, and raises if it cannot be read."""
        self._name = name
        self._read = read
        self._limit = RateLimit.once_in(LOG_INTERVAL_S)
        self._logged_readable = True
        """The state last logged."""

    def read(self, now: float) -> T | None:
        """The figure now; None if it is unknown or cannot be read."""
        try:
            value = self._read(now)
        except Exception as error:
            self._log_change(f"{error}" or type(error).__name__, now)
            return None
        if not self._logged_readable:
            self._log_change("", now)
        return value

    def _log_change(self, reason: str, now: float) -> None:
        """Log a change of state, unless the last one was less than `LOG_INTERVAL_S` ago: then a later call does."""
        readable = not reason
        if readable is self._logged_readable or not self._limit.admit(now):
            return
        self._logged_readable = readable
        if readable:
            self.log.info("this host's {name} can be read again", name=self._name)
        else:
            self.log.warn(
                "this host's {name} cannot be read and is reported as unknown: {reason}",
                name=self._name,
                reason=" ".join(reason.split()),
            )


@attrs.frozen
class FixedSampler:
    """Another sampler's load with some figures replaced, those that are not None (the report's test 2)."""

    sampler: Sampler
    cpu: int | None = None
    memory: int | None = None
    tcp: int | None = None

    def sample(self) -> Load:
        """As `Sampler.sample`."""
        load = self.sampler.sample()
        return attrs.evolve(
            load,
            cpu=load.cpu if self.cpu is None else self.cpu,
            memory=load.memory if self.memory is None else self.memory,
            tcp=load.tcp if self.tcp is None else self.tcp,
        )
