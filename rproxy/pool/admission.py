"""Limits on the effects of registrations: anyone can send one, or replay a captured one."""

from __future__ import annotations

from collections import Counter
from enum import Enum, StrEnum, auto
from typing import Final

import attrs

from rproxy.net.addresses import is_loopback
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.limits import Limits
from rproxy.pool.states import State
from rproxy.timing.rate_limit import RateLimit

REGISTRATIONS_BURST: Final = 5
"""Registrations that one instance may send at once after a pause."""


class Refusal(StrEnum):
    """Why a well-formed PDU changes nothing; each value is the name of a counter."""

    LATE = "late"
    DUPLICATE = "duplicate"
    UNKNOWN = "unknown"
    WRONG_SOURCE = "wrong-source"
    WRONG_INSTANCE = "wrong-instance"
    RETIRED = "retired-instance"
    RATE_LIMITED = "rate-limited"
    TABLE_FULL = "table-full"
    HOST_FULL = "host-full"
    NOT_ALLOWED = "not-allowed"
    NO_SERVICE = "no-service"
    """No service takes agents that register this service port."""
    OWN_LISTENER = "own-listener"
    STATIC = "static"
    UNEXPECTED_PROBE_REQUEST = "unexpected-probe-request"


class Rejected(Exception):
    """A well-formed PDU is dropped, and has changed nothing."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class _Kind(Enum):
    """Which limit a back-end counts toward."""

    UNCONFIRMED = auto()
    CONFIRMED = auto()
    DEPARTED = auto()
    """Not limited: sessions bound these, since each has at least one."""


@attrs.define(eq=False)
class Admission:
    """Enforces `limits`. Each `demand_…` raises `Rejected` where one is reached.

    Loopback addresses are exempt from the limits of a host: other hosts cannot send from them.
    """

    limits: Limits
    _count: Counter[_Kind] = attrs.field(init=False, factory=Counter)
    _on_host: Counter[str] = attrs.field(init=False, factory=Counter)
    """Back-ends on each host, without those that have departed."""
    _registrations: RateLimit = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._registrations = RateLimit(self.limits.registrations_per_s, REGISTRATIONS_BURST)

    @property
    def unconfirmed(self) -> int:
        """Back-ends that have not answered a probe."""
        return self._count[_Kind.UNCONFIRMED]

    @property
    def confirmed(self) -> int:
        """Back-ends that have answered one, and not departed."""
        return self._count[_Kind.CONFIRMED]

    def demand_capacity(self, host: str) -> None:
        """Check the limits for one more unconfirmed back-end on that host."""
        if self.unconfirmed >= self.limits.unconfirmed:
            raise Rejected(Refusal.TABLE_FULL)
        self._demand_host(host)

    def demand_confirmed_capacity(self, backend: Backend) -> None:
        """Check the limits for an unconfirmed or departed back-end that has answered a probe."""
        if self.confirmed >= self.limits.confirmed:
            raise Rejected(Refusal.TABLE_FULL)
        if backend.state is State.DEPARTED:
            self._demand_host(backend.address)

    def _demand_host(self, host: str) -> None:
        if self._on_host[host] >= self.limits.host and not is_loopback(host):
            raise Rejected(Refusal.HOST_FULL)

    def demand_rate(self, registration: Registration, port: int, now: float) -> None:
        """Count a registration for this service port that may change something, if its instance's rate allows it.

        Each instance has a rate of its own, so replays of an old instance do not use up the current one's.
        """
        host, _ = registration.agent
        if not is_loopback(host) and not self._registrations.admit(
            now, (registration.agent, port, registration.instance)
        ):
            raise Rejected(Refusal.RATE_LIMITED)

    def moved(self, host: str, before: State | None, after: State | None) -> None:
        """Count a change of state. None is for a back-end that is not limited: a new one, or one without an agent."""
        left, entered = _kind(before), _kind(after)
        if left is entered:
            return
        for kind, change in ((left, -1), (entered, 1)):
            if kind is not None:
                self._count[kind] += change
                if kind is not _Kind.DEPARTED:
                    self._on_host[host] += change
        if not self._on_host[host]:
            del self._on_host[host]


def _kind(state: State | None) -> _Kind | None:
    match state:
        case None | State.FORGOTTEN:
            return None
        case State.REGISTERED:
            return _Kind.UNCONFIRMED
        case State.DEPARTED:
            return _Kind.DEPARTED
        case _:
            return _Kind.CONFIRMED
