"""One back-end: what it registered, what its agent last reported, and the sessions we have on it."""

from __future__ import annotations

from collections import deque
from enum import IntEnum

import attrs

from rproxy.pool.estimators import LossWindow, SmoothedRtt
from rproxy.pool.states import Administration, State

Address = tuple[str, int]
"""An IP address in text and a port."""

MAPPED = "::ffff:"


def written(address: Address) -> str:
    """host:port, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unmapped(host: str) -> str:
    """An IPv4-mapped IPv6 address, as a socket of both families shows IPv4's, as plain IPv4."""
    return host.removeprefix(MAPPED) if "." in host else host


FORMER_MAX = 8
FORGET_INTERVALS = 3
"""Registration intervals in which nothing was heard: it has gone."""
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
    def others(self) -> int:
        """The connections that are not our sessions; negative if the agent counted before ours reached it."""
        return (self.tcp or 0) - self.counted


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
    leaving: bool = False
    """Its agent has said that it stops, and a probe is to tell whether anybody is still there."""
    candidate: Registration | None = None
    """A registration that differs in instance or agent's address, until a probe confirms it."""
    former: deque[int] = attrs.Factory(lambda: deque(maxlen=FORMER_MAX))
    """Instances that the present one has replaced: none of them comes back."""
    report: Report = Report()
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
    answered_at: float | None = None
    heard_at: float = 0.0
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
    def tcp(self) -> int:
        """The host's TCP connections now: the last report, kept live with our own openings and closings since.

        The report says by its sequence number what it knows of: the sessions established when that probe left.
        """
        now = self.report.others + self.pending + self.established
        return now if now > 0 else 0

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
        return self.administration is Administration.READY and not self.draining and not self.leaving

    @property
    def eligible(self) -> bool:
        """Whether it may get a client now."""
        return self.slot >= 0

    def intervals_s(self, intervals: int) -> float:
        """So many of its registration intervals, but no less than a minute."""
        return max(intervals * self.registration.interval_s, FORGET_MIN_S)

    def has_replaced(self, registration: Registration, now: float) -> bool:
        """Whether the present agent has taken the place of this one, whose REGISTER somebody says again.

        Not if it has gone since, and was another; nor if it does not register any more, as it would if it were there.
        """
        if registration.instance not in self.former or now - self.registered_at >= self.intervals_s(FORGET_INTERVALS):
            return False
        return self.is_up or registration.agent == self.registration.agent

    def knows(self, registration: Registration) -> bool:
        """Whether it is of the present agent, or of the candidate to replace it."""
        if registration.same_agent(self.registration):
            return True
        return self.candidate is not None and registration.same_agent(self.candidate)
