"""A back-end: its identity, registration, health, and our sessions on it.

The pool alone writes to a `Backend` and its records; all others only read (tests/pool/test_writers.py).
"""

from __future__ import annotations

from enum import IntEnum
from math import inf
from typing import Final

import attrs

from rproxy.net.addresses import Address, written
from rproxy.pool.estimators import (
    CLAIMED,
    CPU,
    LOAD,
    MEMORY,
    OTHERS,
    UNKNOWN_PERCENT,
    LossWindow,
    PoolMeans,
    Report,
    SmoothedRtt,
)
from rproxy.pool.states import NO_OVERRIDE, Administration, Override, State
from rproxy.wire.agent_check import READY, Weight
from rproxy.wire.pdu import WEIGHT_MAX

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
    cover it, so a new one counts only once a probe from there is answered. `max_connections` is the most sessions that
    we may have on it at once; None for the service's limit.
    """

    agent: Address
    instance: int
    interval_s: float
    weight: int
    local: str = ""
    max_connections: int | None = None

    def same_agent(self, other: Registration) -> bool:
        """Whether both come from the same agent, by the same path: its address, its instance, our address."""
        return self.agent == other.agent and self.instance == other.instance and self.local == other.local


@attrs.frozen
class StaticTerms:
    """What a back-end without an agent is configured with. `check` is how it is checked, in words for operators."""

    weight: int
    check: str = ""
    max_connections: int | None = None


@attrs.define
class Static:
    """Of a back-end without an agent: how it is configured, and what its agent-check has said, if it has one.

    Those words stay in force until the agent-check takes them back.
    """

    configured: StaticTerms
    mode: str = attrs.field(init=False, default=READY)
    """`READY`, `DRAIN` or `MAINT`."""
    stopped: str = attrs.field(init=False, default="")
    """The word for down, with its description; empty while it is not said to be down."""
    said_weight: Weight | None = attrs.field(init=False, default=None)
    said_max_connections: int | None = attrs.field(init=False, default=None)
    """0 for no limit."""
    refuses: bool = attrs.field(init=False, default=False)
    """Whether the last check failed, but was answered: the host is alive."""

    @property
    def weight(self) -> int:
        """The weight that it is to have now, 0 for no new clients: a percentage above 0 of a small one is not 0."""
        configured, said = self.configured.weight, self.said_weight
        if said is None:
            return configured
        if not said.relative:
            return said.number
        return min(max(configured * said.number // 100, 1 if said.number else 0), WEIGHT_MAX)

    @property
    def max_connections(self) -> int | None:
        """Its own limit of sessions; None if it has none, 0 for no limit."""
        return self.configured.max_connections if self.said_max_connections is None else self.said_max_connections

    @property
    def orders(self) -> tuple[str, str, bool, int | None]:
        """What its agent-check has said, but for a weight above 0, which may be another one each time."""
        return self.mode, self.stopped, not self.weight, self.said_max_connections

    @property
    def said(self) -> str:
        """The words in force, for operators; empty if there are none."""
        words = [self.stopped, "" if self.mode == READY else self.mode]
        if self.weight != self.configured.weight:
            words.append(f"weight {self.weight}")
        if self.said_max_connections is not None:
            words.append(f"maxconn {self.said_max_connections}")
        return ", ".join(filter(None, words))


@attrs.define
class Health:
    """Results of probes, checks and connects: the counts in a row behind each state, and the hold-down (times in s)."""

    misses: int = attrs.field(init=False, default=0)
    """Probes lost, or checks failed, in a row."""
    answers: int = attrs.field(init=False, default=0)
    """Probes or checks answered in a row."""
    lost_on_demand: int = attrs.field(init=False, default=0)
    """Probes on demand lost in a row; they are no misses."""
    refusals: int = attrs.field(init=False, default=0)
    """Connects failed in a row."""
    refused: int = attrs.field(init=False, default=0)
    """Connects that have failed in all."""
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

    def count_refusal(self) -> None:
        """A connect has failed."""
        self.refusals += 1
        self.refused += 1


@attrs.define
class Counts:
    """Our sessions on a back-end: connecting, established, and ever established."""

    pending: int = 0
    established: int = 0
    total: int = 0
    unconnected: int = 0
    """Those that ended before they were established."""
    bytes_up: int = 0
    """Bytes from clients, of the sessions that have ended."""
    bytes_down: int = 0
    """Bytes to clients, likewise."""


@attrs.define
class Probing:
    """Probes of its agent."""

    next_sequence: int = 0
    outstanding: set[int] = attrs.Factory(set)
    """Tokens of the probes that are neither answered nor lost."""
    asked_at: float = float("-inf")
    """When its present agent was last sent a probe: the report is as old, unless that probe is on its way or lost.
    Infinite without an agent, which is never asked.
    """
    waiting: int = 0
    """Registrations that wait for their first probe, see `Candidates`."""


@attrs.define(eq=False)
class Backend:
    """One row of the pool, by (address, port)."""

    address: str
    port: int
    registration: Registration
    means: PoolMeans = attrs.field(factory=PoolMeans, repr=False)
    """Averages over the pool's agents, used for figures that are not known of it."""
    static: Static | None = None
    """Set if the configuration names it; None if it has an agent, which `registration` then tells of."""
    state: State = attrs.field(init=False, default=State.REGISTERED)
    override: Override = attrs.field(init=False, default=NO_OVERRIDE)
    """What an operator has set; see `Overrides`, which keeps that longer than the row."""
    draining: bool = attrs.field(init=False, default=False)
    """The D bit of its agent's last answer. Without an agent: whether its agent-check says so, or a weight of 0 that
    no operator overrides.
    """
    report: Report = attrs.field(init=False, factory=Report)
    rtt: SmoothedRtt = attrs.field(init=False, factory=SmoothedRtt)
    losses: LossWindow = attrs.field(init=False, factory=LossWindow)
    health: Health = attrs.field(init=False, factory=Health)
    counts: Counts = attrs.field(init=False, factory=Counts)
    probing: Probing = attrs.field(init=False, factory=Probing)
    answered_at: float | None = attrs.field(init=False, default=None)
    """When a probe or a check was last answered. A REGISTER is no sign of life: any host can replay one."""
    state_since: float | None = attrs.field(init=False, default=None)
    """When its present state began, where UP and SUSPECT count as one; None while it is in that it was added in."""
    registered_at: float = attrs.field(init=False, default=0.0)
    """When its present instance last registered."""
    base_weight: int = attrs.field(init=False)
    """Its weight without slow start: the operator's, or else that of `registration`."""
    share: float = attrs.field(init=False, default=1.0)
    """The fraction of its weight that slow start grants, 0..1."""
    slot: int = attrs.field(init=False, default=-1)
    """Index in `Pool.eligible`; -1 while not eligible."""
    usable: bool = attrs.field(init=False, default=False)
    """Whether it may get clients whenever it is not full: so it is eligible, or full."""
    limit: float = attrs.field(init=False, default=inf)
    """From how many sessions on it is full, the pending ones included; `inf` for never."""
    passed_over: str = attrs.field(init=False, default="")
    """Why the policy passes it over, see `Policy.reported`; empty if it does not."""
    standing: Standing = attrs.field(init=False, default=Standing.UNCOUNTED)
    name: str = attrs.field(init=False)
    """address:port, for logs and operators."""

    def __attrs_post_init__(self) -> None:
        self.name = written((self.address, self.port))
        self.base_weight = self.registration.weight

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
        before ours reached it. The pool's mean if that is not known, 0 if no agent knows.
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
    def rtt_ms(self) -> float:
        """As last measured; the pool's mean where it was never."""
        last_ms = self.rtt.last_ms
        return self.means.rtt_ms if last_ms is None else last_ms

    @property
    def load(self) -> float:
        """The application's, in percent, as last reported, 0 if its agent does not know; the pool's mean without an
        agent.
        """
        load = self.report.load
        if load is None and self.static is not None:
            return self.means.mean(LOAD) or 0.0
        return load or 0

    @property
    def claimed(self) -> float:
        """Sessions of other proxies, as its agent last told, 0 if that has not heard of any; the pool's mean without an
        agent.
        """
        claimed = self.report.others
        if claimed is None and self.static is not None:
            return self.means.mean(CLAIMED) or 0.0
        return claimed or 0

    @property
    def cpu(self) -> float:
        """In percent: as last reported, else the pool's mean, see `PoolMeans.percent`."""
        return self.means.percent(self.report.cpu, CPU, self._least_percent)

    @property
    def memory(self) -> float:
        """In percent: as last reported, else the pool's mean, see `PoolMeans.percent`."""
        return self.means.percent(self.report.memory, MEMORY, self._least_percent)

    @property
    def _least_percent(self) -> int:
        """An agent that hides a figure must not look idle. Without an agent, a back-end is like the others."""
        return UNKNOWN_PERCENT if self.static is None else 0

    @property
    def weight(self) -> float:
        """Its share of clients now, relative to 100."""
        return self.base_weight * self.share

    @property
    def is_up(self) -> bool:
        return self.state is State.UP or self.state is State.SUSPECT

    @property
    def available(self) -> bool:
        """Whether nobody keeps clients away from it: an operator, its agent, or its agent-check."""
        if self.static is not None and self.static.stopped:
            return False
        return self.override.administration is Administration.READY and not self.draining

    @property
    def administration(self) -> Administration:
        """Whether an operator keeps clients away from it."""
        return self.override.administration

    @property
    def has_agent(self) -> bool:
        """Whether it registers itself; if not, the configuration names it."""
        return self.static is None

    @property
    def eligible(self) -> bool:
        """Whether it may get a client now."""
        return self.slot >= 0

    @property
    def max_connections(self) -> int | None:
        """Its own limit of sessions, 0 for no limit; None if it has none, so that the service's applies."""
        return self.registration.max_connections if self.static is None else self.static.max_connections

    def report_age_s(self, now: float) -> float | None:
        """How old its figures are, counted from the last probe that asked for them; None where it was never asked."""
        age_s = now - self.probing.asked_at
        return age_s if -inf < age_s < inf else None

    def intervals_s(self, intervals: int) -> float:
        """`intervals` of its registration intervals in seconds, at least `FORGET_MIN_S`."""
        return max(intervals * self.registration.interval_s, FORGET_MIN_S)
