"""One back-end: what it registered, what its agent last reported, and the sessions we have on it."""

from __future__ import annotations

from enum import IntEnum

import attrs

from rproxy.net.addresses import Address, written
from rproxy.pool.estimators import LossWindow, SmoothedRtt
from rproxy.pool.means import UNKNOWN, Figures, PoolMeans, percent_or_mean
from rproxy.pool.states import Administration, State

FORGET_MIN_S = 60.0


class Standing(IntEnum):
    """What a back-end counts as in its pool."""

    ASIDE = 0
    """Nothing: it is unconfirmed, or is to get no client in any case."""
    DOWN = 1
    UP = 2


@attrs.frozen
class Registration:
    """What a REGISTER said, the agent's address that it came from, and the address of ours that it was sent to.

    `local` is where the agent is probed from, empty where the route is to say. It is nothing that an agent seals, so
    another one counts only once a probe from there is answered.
    """

    agent: Address
    instance: int
    interval_s: float
    weight: int
    local: str = ""

    def same_agent(self, other: Registration) -> bool:
        """Whether both come from the same agent, by the same way: its address, its start, our address."""
        return self.agent == other.agent and self.instance == other.instance and self.local == other.local


@attrs.frozen
class Report:
    """What a PROBE RESPONSE said: percentages 0..100 and established TCP connections, None where unknown.

    `counted` is how many of our own sessions were established when the probe left, and so are part of `tcp`.
    """

    cpu: int | None = None
    memory: int | None = None
    load: int | None = None
    tcp: int | None = None
    counted: int = 0

    @property
    def figures(self) -> Figures:
        """What it tells of the host, without our own sessions."""
        others = None if self.tcp is None else max(self.tcp - self.counted, 0)
        return Figures(self.cpu, self.memory, others)


@attrs.define(eq=False)
class Backend:
    """One row of the table, key (address, port). Only `Table` changes it."""

    address: str
    port: int
    registration: Registration
    state: State = State.REGISTERED
    administration: Administration = Administration.READY
    draining: bool = False
    """The D bit of its agent's last answer."""
    means: PoolMeans = attrs.field(factory=PoolMeans, repr=False)
    """What the pool's agents usually report."""
    report: Report = Report()
    contributed: Figures = UNKNOWN
    """What of it is in `usual`."""
    rtt: SmoothedRtt = attrs.Factory(SmoothedRtt)
    losses: LossWindow = attrs.Factory(LossWindow)
    misses: int = 0
    """Probes lost in a row."""
    answers: int = 0
    """Probes answered in a row."""
    refusals: int = 0
    """Connects that failed in a row."""
    refusing: bool = False
    """Whether it is down because of them: not even a panic tries it before its hold-down is over."""
    hold_s: float = 0.0
    """Its last hold-down."""
    held_until: float = 0.0
    connects_then: int = 0
    """Connects to all back-ends that had succeeded when it began."""
    up_since: float = 0.0
    share: float = 1.0
    """Of its weight (0..1): below 1 while it starts slowly."""
    next_sequence: int = 0
    outstanding: set[int] = attrs.Factory(set)
    """Tokens of the probes that are neither answered nor lost."""
    waiting: int = 0
    """Registrations that wait for their probe, see `FirstProbes`."""
    answered_at: float | None = None
    """When a probe was last answered: nothing else is a sign of life, since anybody can repeat a REGISTER."""
    registered_at: float = 0.0
    """When its present instance last registered."""
    pending: int = 0
    """Our sessions still connecting to it."""
    established: int = 0
    """Our sessions connected to it."""
    total: int = 0
    """Our sessions ever connected to it."""
    slot: int = -1
    """Index in `Table.eligible`; -1 while not eligible."""
    standing: Standing = Standing.ASIDE
    """How the table counts it."""

    @property
    def name(self) -> str:
        return written((self.address, self.port))

    @property
    def connections(self) -> int:
        """Our sessions on it now, the pending ones included."""
        return self.pending + self.established

    @property
    def awaited(self) -> bool:
        """Whether a probe is on its way, or is to be."""
        return self.waiting > 0 or bool(self.outstanding)

    @property
    def others(self) -> float:
        """The host's TCP connections that are not our sessions, by the last report: negative if the agent counted
        before ours reached it. What the pool usually has if the agent cannot tell, 0 if none of its agents can.
        """
        report = self.report
        return self.means.others.value or 0.0 if report.tcp is None else report.tcp - report.counted

    @property
    def tcp(self) -> float:
        """The host's TCP connections now: `others`, and our sessions.

        So the last report is kept live with our own openings and closings since. It says by its sequence number what
        it knows of: the sessions established when that probe left.
        """
        now = self.others + self.pending + self.established
        return now if now > 0 else 0

    @property
    def cpu(self) -> float:
        """In percent: as last reported, or what stands in for that."""
        return percent_or_mean(self.report.cpu, self.means.cpu)

    @property
    def memory(self) -> float:
        return percent_or_mean(self.report.memory, self.means.memory)

    @property
    def weight(self) -> float:
        """Its share of clients relative to 100."""
        return self.registration.weight * self.share

    @property
    def is_up(self) -> bool:
        return self.state is State.UP or self.state is State.SUSPECT

    @property
    def available(self) -> bool:
        """Whether nobody asks to give it no new client."""
        return self.administration is Administration.READY and not self.draining

    @property
    def eligible(self) -> bool:
        """Whether it may get a client now."""
        return self.slot >= 0

    def intervals_s(self, intervals: int) -> float:
        """So many of its registration intervals, but no less than a minute."""
        return max(intervals * self.registration.interval_s, FORGET_MIN_S)
