"""Samplers: where an agent gets the load that it reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import attrs
from twisted.logger import Logger

from rproxy.agent import host_figures
from rproxy.agent.host_figures import CpuTimes, UnreadableFigure
from rproxy.timing.rate_limit import RateLimit
from rproxy.wire.pdu import COUNT_MAX

SAMPLE_INTERVAL_S: Final = 0.5
"""A sample younger than this is reused: CPU use over less time is noise, and probes may come in bursts."""
CPU_STALL_S: Final = 10.0
"""CPU times that have not grown for this long are wrong."""
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


class HostSampler:
    """Samples this host. A figure that cannot be read is unknown, which is logged; the others are not affected.

    CPU use is the average since the previous sample (the report, chapter 4.1.1), and therefore unknown at first.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        """`seconds` is a monotonic clock."""
        self._seconds = seconds
        self._sampled_at = float("-inf")
        self._load = Load()
        self._cpu = _CpuUse()
        self._readers = {name: _FigureReader(name) for name in ("CPU use", "memory", "TCP connections")}
        self._read(seconds())

    def sample(self) -> Load:
        """As `Sampler.sample`: at most `SAMPLE_INTERVAL_S` old. Does not raise."""
        now = self._seconds()
        if now - self._sampled_at >= SAMPLE_INTERVAL_S:
            self._read(now)
        return self._load

    def _read(self, now: float) -> None:
        self._sampled_at = now
        cpu, memory, tcp = self._readers.values()
        count = tcp.read(host_figures.established, now)
        self._load = Load(
            cpu=cpu.read(lambda: self._cpu.percentage(now), now),
            memory=memory.read(host_figures.memory, now),
            tcp=None if count is None else min(count, COUNT_MAX),
        )


class _CpuUse:
    """CPU use, averaged over at least `SAMPLE_INTERVAL_S` of the agent's clock and the kernel's; either may stall."""

    def __init__(self) -> None:
        self._since: tuple[float, CpuTimes] | None = None
        """The time and the CPU times at which the next average begins."""
        self._percentage: int | None = None

    def percentage(self, now: float) -> int | None:
        """The last average, 0..100 for all CPUs together; None before the first. Raises as `cpu_times`."""
        try:
            times = host_figures.cpu_times()
        except Exception:
            self._since = self._percentage = None
            raise
        if self._since is None or times.total < self._since[1].total:  # decreasing times may be another host's
            self._since, self._percentage = (now, times), None
            return None
        at, before = self._since
        total = times.total - before.total
        if now - at >= SAMPLE_INTERVAL_S and total >= SAMPLE_INTERVAL_S * times.per_s:
            self._since = now, times
            self._percentage = min(max(round(100 - 100 * (times.idle - before.idle) / total), 0), 100)
        elif now - at >= CPU_STALL_S:
            self._percentage = None
            raise UnreadableFigure("its times stand still")
        return self._percentage


class _FigureReader:
    """Reads one figure, and logs when it becomes unreadable and when it is readable again."""

    log = Logger()

    def __init__(self, name: str) -> None:
        self._name = name
        self._limit = RateLimit.once_in(LOG_INTERVAL_S)
        self._logged_readable = True
        """The state last logged."""

    def read(self, read: Callable[[], T], now: float) -> T | None:
        """The result of `read`; None if it raises."""
        try:
            value = read()
        except Exception as error:
            self._log_change(f"{error}" or type(error).__name__, now)
            return None
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
