"""One back-end: what it registered, what its agent last reported, and the sessions we have on it."""

from __future__ import annotations

from enum import StrEnum

import attrs

from rproxy.pool.estimators import LossWindow, SmoothedRtt

Address = tuple[str, int]
"""An IP address in text and a port."""


def written(address: Address) -> str:
    """host:port, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class State(StrEnum):
    """The operational state; draining is an axis of its own, `Backend.draining`."""

    REGISTERED = "registered"
    UP = "up"
    DOWN = "down"
    FORGOTTEN = "forgotten"


@attrs.frozen
class Registration:
    """What a REGISTER said, and the agent's address that it came from."""

    agent: Address
    instance: int
    interval_s: float
    weight: int


@attrs.frozen
class Report:
    """What a PROBE RESPONSE said: percentages 0..100, None where unknown, and established TCP connections.

    `counted` is how many of our own sessions were established when the probe left, and so are part of `tcp`.
    """

    cpu: int | None = None
    memory: int | None = None
    load: int | None = None
    tcp: int = 0
    counted: int = 0

    @property
    def others(self) -> int:
        """The connections that are not our sessions; negative if the agent counted before ours reached it."""
        return self.tcp - self.counted


@attrs.define(eq=False)
class Backend:
    """One row of the table, key (address, port). Only `Table` changes it."""

    address: str
    port: int
    registration: Registration
    draining: bool = False
    state: State = State.REGISTERED
    candidate: Registration | None = None
    """A registration that differs in instance or agent's address, until a probe confirms it."""
    report: Report = Report()
    rtt: SmoothedRtt = attrs.Factory(SmoothedRtt)
    losses: LossWindow = attrs.Factory(LossWindow)
    misses: int = 0
    """Probes lost in a row."""
    next_sequence: int = 0
    outstanding: set[int] = attrs.Factory(set)
    """Tokens of the probes that are neither answered nor lost."""
    answered_at: float | None = None
    heard_at: float = 0.0
    pending: int = 0
    """Our sessions still connecting to it."""
    established: int = 0
    """Our sessions connected to it."""
    total: int = 0
    """Our sessions ever connected to it."""
    slot: int = -1
    """Index in `Table.eligible`; -1 while not eligible."""

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
    def eligible(self) -> bool:
        return self.state is State.UP and not self.draining
