"""A host: processor sharing over its cores, other programs that come and go, and the figures of its agent.

It knows no proxy and no policy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Any, Final

import attrs

from rproxy.study.engine import Engine

SAMPLE_S: Final = 0.5
"""An agent measures CPU over at least this time."""
NOISE_POINTS: Final = 2.0
"""Standard deviation of an agent's CPU, in points of a percentage."""
_ROUNDING: Final = 1e-9
"""Work left that counts as none, in s."""


class Sink(Enum):
    """How a host whose service has failed ends its sessions at once, which makes it look idle."""

    CLOSED = auto()
    """It ends the connection without a byte, which the proxy counts as a failed connect."""
    ERROR = auto()
    """It answers with an error page: to the proxy, a short session that went well."""


@attrs.frozen
class HostSpec:
    """A host. `speed` is the work that one core does in a second.

    With `workers`, its service works on that many sessions at once; up to `backlog` others wait in the accept queue,
    and further ones are refused. `memory` is in percent; `idle_connections` are established TCP connections that are
    not sessions of a proxy.
    """

    speed: float = 1.0
    cores: int = 1
    workers: int | None = None
    backlog: int = 128
    memory: int = 20
    idle_connections: int = 0
    delay_s: float = 0.0
    """One way between its agent and the proxies, besides the network's."""
    loss: float = 0.0
    """The fraction of its agent's probes that are lost, besides the network's."""
    sink: Sink | None = None
    weight: int = 100


@attrs.frozen
class Hog:
    """Another program on each host: off and on for exponential times, and then takes a share of all cores.

    The share is uniform from `low` to `high`.
    """

    off_s: float = 20.0
    on_s: float = 10.0
    low: float = 0.3
    high: float = 0.8

    @property
    def mean(self) -> float:
        """The share that it takes on average."""
        return (self.low + self.high) / 2 * self.on_s / (self.on_s + self.off_s)


class Job:
    """Work of a session. `done` is called with it when it is finished, unless `accept` has refused it."""

    __slots__ = ("accepted_at", "done", "session", "work")

    def __init__(self, work: float, session: Any, done: Callable[[Job], object]) -> None:
        self.work = work
        self.session = session
        self.done = done
        self.accepted_at = 0.0


class Host:
    """Shares its cores equally among all jobs, none of which uses more than one core.

    `_progress` is the work that a job would have got that was there from the start, so a job ends when that has grown
    by its work: one heap orders all of them, whatever comes and goes.
    """

    def __init__(self, engine: Engine, number: int, spec: HostSpec, rng: Random) -> None:
        self._engine = engine
        self._rng = rng
        self.number = number
        self.spec = spec
        self.hogged = 0.0
        """The share of all cores that the hog takes now."""
        self.connections = 0
        """Sessions of all proxies, and of clients from elsewhere."""
        self.demand = 0.0
        """The work per second that its long sessions ask for on average."""
        self.waiting: deque[Job] = deque()
        self._jobs: list[tuple[float, int, Job]] = []
        """A heap of (progress at which it ends, order, job)."""
        self._order = 0
        self._progress = 0.0
        self._rate = 0.0
        """How fast `_progress` grows."""
        self._updated_at = 0.0
        self._timer_at = inf
        """When `_wake` is called next."""
        self._busy_s = 0.0
        self._used = 0.0
        self._cpu = 0
        self._sampled_at = 0.0
        self._sampled_busy_s = 0.0

    @property
    def active(self) -> int:
        """Jobs that it works on or that wait."""
        return len(self._jobs) + len(self.waiting)

    @property
    def capacity(self) -> float:
        """The work per second that the hog leaves now."""
        return self.spec.speed * self.spec.cores * (1 - self.hogged)

    def busy_s(self) -> float:
        """Seconds of use so far, of all its cores together: 1 a second when all are in use."""
        self._advance()
        return self._busy_s

    def set_hog(self, share: float) -> None:
        """The hog takes the share of all cores from now on."""
        self._advance()
        self.hogged = share
        self._schedule()

    def accept(self, job: Job) -> bool:
        """Begin with a job, or queue it. Returns False where the accept queue is full."""
        job.accepted_at = self._engine.now
        workers = self.spec.workers
        if workers is not None and len(self._jobs) >= workers:
            if len(self.waiting) >= self.spec.backlog:
                return False
            self.waiting.append(job)
            return True
        self._advance()
        self._begin(job)
        self._schedule()
        return True

    def _begin(self, job: Job) -> None:
        self._order += 1
        heappush(self._jobs, (self._progress + job.work, self._order, job))

    def _advance(self) -> None:
        """Account for the time since the last change."""
        now = self._engine.now
        elapsed_s = now - self._updated_at
        if elapsed_s > 0:
            self._progress += elapsed_s * self._rate
            self._busy_s += elapsed_s * self._used
            self._updated_at = now

    def _schedule(self) -> None:
        """Something has changed: compute the rate, and have `_wake` called by the time that the first job ends.

        A timer that comes too early is left: it sets the right one.
        """
        jobs, spec = self._jobs, self.spec
        free = spec.cores * (1 - self.hogged)
        used = min(len(jobs), free)
        self._used = self.hogged + used / spec.cores
        if not used:
            self._rate = 0.0
            return
        self._rate = spec.speed * used / len(jobs)
        due = self._updated_at + max(0.0, jobs[0][0] - self._progress) / self._rate
        if due < self._timer_at:
            self._timer_at = due
            self._engine.at(due, self._wake, due)

    def _wake(self, due: float) -> None:
        if due != self._timer_at:  # an earlier timer has taken its place
            return
        self._timer_at = inf
        self._advance()
        jobs, done = self._jobs, []
        while jobs and jobs[0][0] <= self._progress + _ROUNDING:
            done.append(heappop(jobs)[2])
            if self.waiting:
                self._begin(self.waiting.popleft())
        self._schedule()
        for job in done:
            job.done(job)

    # What its agent reports.

    def cpu(self) -> int:
        """In percent, over the time since the last measurement, which was at least `SAMPLE_S` ago."""
        elapsed_s = self._engine.now - self._sampled_at
        if elapsed_s >= SAMPLE_S:
            busy_s = self.busy_s()
            percent = 100 * (busy_s - self._sampled_busy_s) / elapsed_s + self._rng.gauss(0, NOISE_POINTS)
            self._cpu = min(100, max(0, round(percent)))
            self._sampled_at, self._sampled_busy_s = self._engine.now, busy_s
        return self._cpu

    def load(self) -> int | None:
        """The fill of the accept queue in percent; None for a service without a limit of its own."""
        return None if self.spec.workers is None else 100 * len(self.waiting) // self.spec.backlog


def run_hog(engine: Engine, host: Host, hog: Hog, rng: Random) -> None:
    """Have the hog come and go on `host` until the run ends."""

    def begin(_: None) -> None:
        host.set_hog(rng.uniform(hog.low, hog.high))
        engine.at(engine.now + rng.expovariate(1 / hog.on_s), end)

    def end(_: None) -> None:
        host.set_hog(0.0)
        engine.at(engine.now + rng.expovariate(1 / hog.off_s), begin)

    engine.at(rng.expovariate(1 / hog.off_s), begin)
