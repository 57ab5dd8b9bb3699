"""Which registrations count: anybody may send one, or send somebody's again."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final

import attrs

from rproxy.pool.backend import Address
from rproxy.pool.limits import Limits, RateLimit

REGISTRATIONS_BURST: Final = 5
"""Registrations at once from one agent that has sent none for a while."""


class Refusal(StrEnum):
    """Why a well-formed PDU changes nothing; each is a counter's name."""

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
    OWN_LISTENER = "own-listener"
    UNEXPECTED_PROBE_REQUEST = "unexpected-probe-request"


class Rejected(Exception):
    """A well-formed PDU that does not count."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@attrs.define(eq=False)
class Admission:
    """Keeps the `limits`. Each `demand` raises `Rejected` where one does not allow it.

    What comes from a loopback address is limited only in all: nobody elsewhere can send it.
    """

    limits: Limits
    unconfirmed: int = attrs.field(init=False, default=0)
    """Back-ends that have not answered a probe yet."""
    _on_host: Counter[str] = attrs.field(init=False, factory=Counter)
    """Back-ends, by address."""
    _in_all: RateLimit = attrs.field(init=False)
    _of_host: RateLimit = attrs.field(init=False)
    _of_agent: RateLimit = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        limits = self.limits
        self._in_all = RateLimit(limits.registrations_s, round(limits.registrations_s))
        self._of_host = RateLimit(limits.registrations_host_s, round(limits.registrations_host_s))
        self._of_agent = RateLimit(limits.registrations_each_s, REGISTRATIONS_BURST)

    def demand_room(self, host: str, size: int) -> None:
        """For one more back-end on that host, beside `size` in all."""
        limits = self.limits
        if self.unconfirmed >= limits.unconfirmed or size >= limits.confirmed + limits.unconfirmed:
            raise Rejected(Refusal.TABLE_FULL)
        if self._on_host[host] >= limits.host and not _is_local(host):
            raise Rejected(Refusal.HOST_FULL)

    def demand_place(self, size: int) -> None:
        """For one of `size` back-ends, which is the next to have answered a probe."""
        if size - self.unconfirmed >= self.limits.confirmed:
            raise Rejected(Refusal.TABLE_FULL)

    def demand_turn(self, agent: Address, now: float) -> None:
        """For a registration that may change something; it has been taken if nothing is raised.

        By agent first: what is sent again in a host's name, from other ports than its agents', uses up nothing but what
        they have together.
        """
        host, _ = agent
        if self._in_all.wait_s(now):
            raise Rejected(Refusal.RATE_LIMITED)
        if not _is_local(host):
            if self._of_host.wait_s(now, host) or not self._of_agent.admit(now, agent):
                raise Rejected(Refusal.RATE_LIMITED)
            self._of_host.admit(now, host)
        self._in_all.admit(now)

    def added(self, host: str) -> None:
        """A back-end, which is unconfirmed."""
        self.unconfirmed += 1
        self._on_host[host] += 1

    def decided(self) -> None:
        """A back-end is not unconfirmed any more."""
        self.unconfirmed -= 1

    def removed(self, host: str) -> None:
        """A back-end that was `decided`."""
        self._on_host[host] -= 1
        if not self._on_host[host]:
            del self._on_host[host]


def _is_local(host: str) -> bool:
    return host.startswith("127.") or host == "::1"
