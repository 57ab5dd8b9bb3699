"""How loaded this host is: the samplers an agent can report from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import attrs
from twisted.logger import Logger

from rproxy.agent import figures
from rproxy.agent.figures import CpuTimes, Unreadable
from rproxy.wire.pdu import COUNT_MAX

FRESH_S: Final = 0.5
"""A sample this young is given out again: CPU use over a shorter time means nothing, and probes may come in bursts."""
STILL_S: Final = 10.0
"""CPU times that have not grown for so long are nobody's."""
TOLD_S: Final = 5.0
"""At most one line in this time says of a figure that it can, or cannot, be read."""

T = TypeVar("T")


@attrs.frozen
class Load:
    """One sample: percentages 0..100 and established TCP connections, None where unknown."""

    cpu: int | None = None
    memory: int | None = None
    tcp: int | None = None
    application: int | None = None


class Sampler(Protocol):
    """The seam for a source of load figures."""

    def sample(self) -> Load: ...


class HostSampler:
    """This host. A figure that cannot be read is unknown, and the log says so; the others stay.

    `seconds` is a monotonic clock. CPU use is the average since the previous sample, as the report has it (chapter
    4.1.1), and so unknown in the first one.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._sampled_at = float("-inf")
        self._load = Load()
        self._cpu = _CpuUse()
        self._readings = {name: _Reading(name) for name in ("CPU use", "memory", "TCP connections")}
        self._read(seconds())

    def sample(self) -> Load:
        now = self._seconds()
        if now - self._sampled_at >= FRESH_S:
            self._read(now)
        return self._load

    def _read(self, now: float) -> None:
        self._sampled_at = now
        cpu, memory, tcp = self._readings.values()
        count = tcp.take(figures.established, now)
        self._load = Load(
            cpu=cpu.take(lambda: self._cpu.percent(now), now),
            memory=memory.take(figures.memory, now),
            tcp=None if count is None else min(count, COUNT_MAX),
        )


class _CpuUse:
    """Averages over at least `FRESH_S`, by our clock and by the host's own count: either may stand still."""

    def __init__(self) -> None:
        self._since: tuple[float, CpuTimes] | None = None
        self._percent: int | None = None

    def percent(self, now: float) -> int | None:
        """Of all CPUs' time. None until enough has passed; until more has, the last average. Raises as `cpu_times`."""
        try:
            times = figures.cpu_times()
        except Exception:
            self._since = self._percent = None
            raise
        if self._since is None or times.total < self._since[1].total:  # another host's times, as far as we can tell
            self._since, self._percent = (now, times), None
            return None
        at, before = self._since
        total = times.total - before.total
        if now - at >= FRESH_S and total >= FRESH_S * times.per_s:
            self._since = now, times
            self._percent = min(max(round(100 - 100 * (times.idle - before.idle) / total), 0), 100)
        elif now - at >= STILL_S:
            self._percent = None
            raise Unreadable("its times stand still")
        return self._percent


class _Reading:
    """One figure: unknown while it cannot be read, of which the log tells the beginning and the end."""

    log = Logger()

    def __init__(self, name: str) -> None:
        self._name = name
        self._said_at = float("-inf")
        self._said_readable = True

    def take(self, read: Callable[[], T], now: float) -> T | None:
        try:
            value = read()
        except Exception as error:
            self._say(f"{error}" or type(error).__name__, now)
            return None
        self._say("", now)
        return value

    def _say(self, reason: str, now: float) -> None:
        """Once for each change; a later sample says what is held back here."""
        if self._said_readable is not bool(reason) or now - self._said_at < TOLD_S:
            return
        self._said_at, self._said_readable = now, not reason
        if reason:
            self.log.warn(
                "this host's {name} cannot be read and is reported as unknown: {reason}",
                name=self._name,
                reason=" ".join(reason.split()),
            )
        else:
            self.log.info("this host's {name} can be read again", name=self._name)


@attrs.frozen
class FixedSampler:
    """Another sampler with some figures replaced: the report's test 2."""

    sampler: Sampler
    cpu: int | None = None
    memory: int | None = None
    tcp: int | None = None

    def sample(self) -> Load:
        load = self.sampler.sample()
        return attrs.evolve(
            load,
            cpu=load.cpu if self.cpu is None else self.cpu,
            memory=load.memory if self.memory is None else self.memory,
            tcp=load.tcp if self.tcp is None else self.tcp,
        )
