"""A back-end: its identity, registration, health, and our sessions on it.

The pool alone writes to a `Backend` and its records; all others only read (tests/pool/test_writers.py).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import attrs

from rproxy.net.addresses import Address, written
from rproxy.pool.estimators import CPU, MEMORY, OTHERS, LossWindow, PoolMeans, Report, SmoothedRtt
from rproxy.pool.states import Administration, State

FORGET_MIN_S: Final = 60.0
"""The least that `Backend.intervals_s` returns."""


class Standing(IntEnum):
    """How a back-end counts when the pool decides whether to panic."""

    UNCOUNTED = 0
    """Not at all: it is unconfirmed, draining or departed."""
    DOWN = 1
    UP = 2


@attrs.frozen
class Registration:
    """The contents of a REGISTER, the agent's address that sent it, and our address that received it.

    `interval_s` is the time until the agent's next REGISTER. `local` is the source address of its probes, empty where
    routing decides; where we have several UDP ports, an @ and the one that received it may follow. The seal does not
    cover it, so a new one counts only once a probe from there is answered.
    """

    agent: Address
    instance: int
    interval_s: float
    weight: int
    local: str = ""

    def same_agent(self, other: Registration) -> bool:
        """Whether both come from the same agent, by the same path: its address, its instance, our address."""
        return self.agent == other.agent and self.instance == other.instance and self.local == other.local


@attrs.define
class Health:
    """Results of probes and connects: the counts in a row behind each state, and the hold-down (times in s)."""

    misses: int = attrs.field(init=False, default=0)
    """Probes lost in a row."""
    answers: int = attrs.field(init=False, default=0)
    """Probes answered in a row."""
    lost_on_demand: int = attrs.field(init=False, default=0)
    """Probes on demand lost in a row; they are no misses."""
    refusals: int = attrs.field(init=False, default=0)
    """Connects failed in a row."""
    refusing: bool = attrs.field(init=False, default=False)
    """Whether failed connects took it down: then not even a panic uses it before its hold-down is over."""
    hold_s: float = attrs.field(init=False, default=0.0)
    """How long the last hold-down was."""
    held_until: float = attrs.field(init=False, default=0.0)
    """When the last hold-down ends, or ended."""
    connects_then: int = attrs.field(init=False, default=0)
    """Connects that had succeeded, to any back-end, when the hold-down began."""
    up_since: float = attrs.field(init=False, default=0.0)
    """When it last came up, from another state than SUSPECT."""


@attrs.define
class Counts:
    """Our sessions on a back-end: connecting, established, and ever established."""

    pending: int = 0
    established: int = 0
    total: int = 0


@attrs.define
class Probing:
    """Probes of its agent."""

    next_sequence: int = 0
    outstanding: set[int] = attrs.Factory(set)
    """Tokens of the probes that are neither answered nor lost."""
    asked_at: float = float("-inf")
    """When its present agent was last sent a probe: the report is as old, unless that probe is on its way or lost."""
    waiting: int = 0
    """Registrations that wait for their first probe, see `Candidates`."""


@attrs.define(eq=False)
class Backend:
    """One row of the pool, by (address, port)."""

    address: str
    port: int
    registration: Registration
    means: PoolMeans = attrs.field(factory=PoolMeans, repr=False)
    """Averages over the pool's agents, used for figures that its agent does not know."""
    state: State = attrs.field(init=False, default=State.REGISTERED)
    administration: Administration = attrs.field(init=False, default=Administration.READY)
    draining: bool = attrs.field(init=False, default=False)
    """The D bit of its agent's last answer."""
    report: Report = attrs.field(init=False, factory=Report)
    rtt: SmoothedRtt = attrs.field(init=False, factory=SmoothedRtt)
    losses: LossWindow = attrs.field(init=False, factory=LossWindow)
    health: Health = attrs.field(init=False, factory=Health)
    counts: Counts = attrs.field(init=False, factory=Counts)
    probing: Probing = attrs.field(init=False, factory=Probing)
    answered_at: float | None = attrs.field(init=False, default=None)
    """When a probe was last answered. A REGISTER is no sign of life: any host can replay one."""
    registered_at: float = attrs.field(init=False, default=0.0)
    """When its present instance last registered."""
    share: float = attrs.field(init=False, default=1.0)
    """The fraction of its weight that slow start grants, 0..1."""
    slot: int = attrs.field(init=False, default=-1)
    """Index in `Pool.eligible`; -1 while not eligible."""
    passed_over: str = attrs.field(init=False, default="")
    """Why the policy passes it over, see `Policy.reported`; empty if it does not."""
    standing: Standing = attrs.field(init=False, default=Standing.UNCOUNTED)
    name: str = attrs.field(init=False)
    """address:port, for logs and operators."""

    def __attrs_post_init__(self) -> None:
        self.name = written((self.address, self.port))

    @property
    def connections(self) -> int:
        """Our sessions on it now, the pending ones included."""
        return self.counts.pending + self.counts.established

    @property
    def awaited(self) -> bool:
        """Whether a probe is on its way, or a registration waits for one."""
        return self.probing.waiting > 0 or bool(self.probing.outstanding)

    @property
    def others(self) -> float:
        """The host's TCP connections that are not our sessions, by the last report: negative if the agent counted
        before ours reached it. The pool's mean if the agent does not know, 0 if no agent does.
        """
        report = self.report
        return self.means.mean(OTHERS) or 0.0 if report.tcp is None else report.tcp - report.counted

    @property
    def tcp(self) -> float:
        """The host's TCP connections now: those of `others`, and our sessions.

        Our own openings and closings keep the last report current: it includes those of our sessions that were
        established when its probe left.
        """
        now = self.others + self.counts.pending + self.counts.established
        return now if now > 0 else 0

    @property
    def cpu(self) -> float:
        """In percent: as last reported, else the pool's mean, see `PoolMeans.percent`."""
        return self.means.percent(self.report.cpu, CPU)

    @property
    def memory(self) -> float:
        """In percent: as last reported, else the pool's mean, see `PoolMeans.percent`."""
        return self.means.percent(self.report.memory, MEMORY)

    @property
    def weight(self) -> float:
        """Its share of clients now, relative to 100."""
        return self.registration.weight * self.share

    @property
    def is_up(self) -> bool:
        return self.state is State.UP or self.state is State.SUSPECT

    @property
    def available(self) -> bool:
        """Whether neither an operator nor its agent drains it."""
        return self.administration is Administration.READY and not self.draining

    @property
    def eligible(self) -> bool:
        """Whether it may get a client now."""
        return self.slot >= 0

    def intervals_s(self, intervals: int) -> float:
        """`intervals` of its registration intervals in seconds, at least `FORGET_MIN_S`."""
        return max(intervals * self.registration.interval_s, FORGET_MIN_S)
