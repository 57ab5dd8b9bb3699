"""Probes on demand keep the reports of back-ends fresh while clients come.

With periodic probes alone a report is up to their interval old, and clients crowd onto the back-end that was idle then.
While clients come, a timer asks for all reports that are older than the freshness. To ask for a few at each choice
instead would leave them as old as clients are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import ceil
from operator import attrgetter
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.backend import Backend, Registration
from rproxy.timing.rate_limit import RateLimit

BUSY_S: Final = 1.0
"""Clients count as coming for so long after each."""
TICK_MAX_S: Final = 0.05
"""Between two looks at the reports, at most: longer ones would send more probes at once."""
LOOKS_MAX: Final = 512
"""Back-ends whose age is compared in one turn of the reactor; of a larger pool, others in the next."""
SPREAD_S: Final = 2.0
"""Where the budget does not suffice to ask every back-end in this time, only those likely to be chosen next are asked.
Periodic probes are hardly less frequent there: asking for the oldest reports would make none much younger.
"""
LIKELY_MIN: Final = 4
LIKELY_MAX: Final = 16
"""How many of these are asked: twice as many as clients came in the last turn. Finding them takes time that grows with
the square of their number.
"""
_TOLERANCE_S: Final = 1e-6

_asked_at = attrgetter("probing.asked_at")


class Demand(Protocol):
    """The part of the pool that probes on demand depend on."""

    choices: int
    """Clients that were given a back-end so far."""
    wake: Callable[[], None] | None
    """Called whenever a client is given one; None for not at all."""

    @property
    def eligible(self) -> Sequence[Backend]:
        """The back-ends that may get a client, in no order."""

    def would_choose(self, now: float, exclude: Collection[Backend]) -> Backend | None:
        """The back-end that a client would get now; None where there is none but those of `exclude`."""

    def is_probed(self, backend: Backend, registration: Registration) -> bool:
        """Whether a probe to that agent is on its way."""


def budget_limit(freshness_s: float | None, budget: float) -> RateLimit:
    """Limits probes on demand to `budget` a second. What a tick's time allows may be sent at once."""
    return RateLimit(budget, max(1, ceil(budget * _tick_s(freshness_s))))


def _tick_s(freshness_s: float | None) -> float:
    return min((freshness_s or 0.0) / 2, TICK_MAX_S)


class OnDemand:
    """While clients come, calls `probe` for the back-ends whose reports are older than `freshness_s`, the oldest first.

    It makes no more calls than `limit` admits, which several may share (see `budget_limit`), and one in `freshness_s`
    for each back-end, none while a probe to it is on its way. `held_back` is called when the budget is spent although
    more are due. There is no timer while no clients come. With None for `freshness_s` nothing is asked.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        pool: Demand,
        freshness_s: float | None,
        limit: RateLimit,
        probe: Callable[[Backend], None],
        held_back: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._freshness_s = freshness_s
        self._probe = probe
        self._held_back = held_back
        self._tick_s = _tick_s(freshness_s)
        self._limit = limit
        self._spread = limit.rate * SPREAD_S
        """Back-ends that the budget suffices for."""
        self._next = 0
        """Index of the first eligible back-end to look at in the next turn, in a pool larger than `LOOKS_MAX`."""
        self._choices = 0
        """As of the last tick."""
        self._clients = 0
        """Clients that came between the last two ticks."""
        self._client_at = 0.0
        """When the last client came, within a tick."""
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Wait for clients."""
        if self._freshness_s is not None:
            self._pool.wake = self._wake

    def stop(self) -> None:
        """Cancel the timer, and ignore clients. May be called twice."""
        self._pool.wake = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        """The first client after a while: only set the timer, as the client waits until this returns."""
        self._pool.wake = None
        self._timer = self._clock.callLater(0, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        choices = self._pool.choices
        self._clients, self._choices = choices - self._choices, choices
        if self._clients:
            self._client_at = now
        elif now - self._client_at >= BUSY_S:
            self.start()
            return
        self._timer = self._clock.callLater(self._tick_s, self._tick)
        try:
            self._ask(now)
        except Exception:
            self.log.failure("probing on demand")

    def _ask(self, now: float) -> None:
        eligible = self._pool.eligible
        due = self._due(self._likely(now) if len(eligible) > self._spread else self._some(eligible), now)
        due.sort(key=_asked_at)
        for backend in due:
            if not self._limit.admit(now):
                self._held_back()
                return
            self._probe(backend)

    def _due(self, backends: Sequence[Backend], now: float) -> list[Backend]:
        """Those of which a new report may be asked for.

        The last report is as old as its probe. Back-ends that are down, which get clients in a panic, are probed
        periodically only: an answer must not bring them up before their time.
        """
        assert self._freshness_s is not None
        before, is_probed = now - self._freshness_s + _TOLERANCE_S, self._pool.is_probed
        return [
            backend
            for backend in backends
            if (probing := backend.probing).asked_at <= before
            and backend.is_up
            and not (probing.outstanding and is_probed(backend, backend.registration))
        ]

    def _some(self, eligible: Sequence[Backend]) -> Sequence[Backend]:
        """All of a small pool; of a large one, those that follow the last ones."""
        if len(eligible) <= LOOKS_MAX:
            return eligible
        start = self._next if self._next < len(eligible) else 0
        self._next = start + LOOKS_MAX
        return eligible[start : self._next]

    def _likely(self, now: float) -> list[Backend]:
        """The back-ends that the next clients would get."""
        found: list[Backend] = []
        number = min(max(2 * self._clients, LIKELY_MIN), LIKELY_MAX)
        while len(found) < number and (backend := self._pool.would_choose(now, found)) is not None:
            found.append(backend)
        return found
