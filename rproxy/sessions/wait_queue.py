"""Clients that wait for a back-end to become eligible: first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import Final, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.backend import Backend
from rproxy.pool.events import EligibilityChanged
from rproxy.pool.pool import Pool
from rproxy.sessions.endings import Ending

AT_ONCE: Final = 32
"""Most clients called back in one turn of the reactor: a millisecond or two of work."""
PAUSE_S: Final = 0.005
"""Pause between two such turns. Thousands are served within a second; meanwhile more back-ends may become eligible."""
_TOLERANCE_S: Final = 0.001


class WaitTerms(Protocol):
    """How long clients may wait, in seconds, and how many."""

    @property
    def wait_s(self) -> float:
        """While no back-end is up; 0 for not at all."""

    @property
    def queue(self) -> int:
        """Most clients that wait for each back-end that is full."""

    @property
    def queue_timeout_s(self) -> float:
        """While those that are up are full; 0 for not at all."""


@attrs.frozen
class _Waiting:
    """A client that waits since `since`, for a back-end that is none of `exclude`."""

    since: float
    exclude: Collection[Backend]
    call: Callable[[], None]


class WaitQueue:
    """Calls clients back once a back-end of `pool` is eligible, or their time is over.

    `terms` returns the terms that apply now. How long they may wait depends on why they have to, as it is now: because
    those that are up are full, or because none is up. Joining and leaving take O(1), and one timer serves all.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, pool: Pool, terms: Callable[[], WaitTerms]) -> None:
        self._clock = clock
        self._pool = pool
        self._terms = terms
        self.queue: OrderedDict[Hashable, _Waiting] = OrderedDict()
        """By client. The order of arrival is also that of the deadlines."""
        self.again: OrderedDict[Hashable, _Waiting] = OrderedDict()
        """Those that could not connect to a back-end. They came before the others, and are called before them, but do
        not keep the others from the back-ends that have failed them.
        """
        self.waiting = 0
        """The clients in both."""
        self._timer: IDelayedCall | None = None
        self._due = 0.0
        """When the timer fires."""
        self._in_turn = False
        self._stopped = False

    def add(
        self,
        client: Hashable,
        call: Callable[[], None],
        exclude: Collection[Backend] = (),
        waited_s: float | None = None,
    ) -> bool:
        """Have `call` called once a back-end is eligible that is none of `exclude`, or the client's time is over.

        `waited_s` is how long the client has waited before; None if it has not. Returns False if it may not wait: as
        many do as may, or its time is over, or back-ends are eligible and the policy chooses none, so that a wait is
        pointless. While none is up, each waits at most once.
        """
        if self._stopped or (self._may_serve(exclude) and (waited_s is not None or not self.waiting)):
            return False
        if waited_s is not None and not self.is_full_besides(exclude):
            return False
        limit_s, full = self._limit_s(exclude), self._pool.full
        if limit_s - (waited_s or 0.0) <= _TOLERANCE_S or (full and self.waiting >= self._terms().queue * full):
            return False
        since = self._clock.seconds() - (waited_s or 0.0)
        clients = self.again if exclude else self.queue
        clients[client] = _Waiting(since, exclude, call)
        self._counted()
        self._arm(since if self._may_serve(exclude) else since + limit_s)
        return True

    def is_full_besides(self, exclude: Collection[Backend]) -> bool:
        """Whether a back-end that is none of `exclude` may get clients, but is full."""
        return self._pool.full > sum(backend.usable and backend.slot < 0 for backend in exclude)

    def refusal(self, exclude: Collection[Backend], *, waited: bool) -> Ending:
        """Why a client is turned away that could not connect to `exclude`, and has waited or has not."""
        if self.is_full_besides(exclude) and (waited or not exclude):
            return Ending.QUEUE_TIMEOUT if waited else Ending.QUEUE_FULL
        return Ending.UNREACHABLE if exclude else Ending.NO_BACKEND

    def longest_s(self) -> float:
        """How long the first client has waited, in seconds; 0 if there is none."""
        firsts = [next(iter(clients.values())) for clients in (self.again, self.queue) if clients]
        return max((self._clock.seconds() - first.since for first in firsts), default=0.0)

    def _may_serve(self, exclude: Collection[Backend]) -> bool:
        """Whether a back-end that is none of `exclude` is eligible."""
        return len(self._pool.eligible) > sum(backend.slot >= 0 for backend in exclude)

    def _limit_s(self, exclude: Collection[Backend]) -> float:
        """How long clients may wait that could not connect to `exclude`."""
        if self.is_full_besides(exclude):
            return self._terms().queue_timeout_s
        return 0.0 if exclude and self._pool.eligible else self._terms().wait_s

    def terms_changed(self) -> None:
        """Those that wait, wait as long as the terms now say: see to them in the reactor's next turn."""
        if self.waiting:
            self._arm(self._clock.seconds())

    def leave(self, client: Hashable) -> None:
        """Remove a client that has gone; it may have been called back already."""
        left = self.queue.pop(client, None) is None and self.again.pop(client, None) is not None
        self._counted()
        if left and self.again:
            self._arm(self._clock.seconds())  # the next one may be waiting for another back-end
        if not self.waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _counted(self) -> None:
        self.waiting = len(self.queue) + len(self.again)
        self._pool.clients_wait(self.waiting)

    def eligibility_changed(self, event: EligibilityChanged) -> None:
        """A back-end has become eligible, or ceased to be: see to the clients in the reactor's next turn."""
        self.terms_changed()

    def _arm(self, due: float) -> None:
        """Have the next turn at `due`, or before."""
        if self._in_turn or (self._timer is not None and self._due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._clock.callLater(max(due - self._clock.seconds(), 0.0), self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        self._in_turn = True
        for _ in range(AT_ONCE):
            clients = self._first(now)
            if clients is None:
                break
            _, waiting = clients.popitem(last=False)
            self._counted()
            try:
                waiting.call()
            except Exception:
                self.log.failure("a client that waited could not be served")
        self._in_turn = False
        if self.waiting:
            dues = [self._due_of(clients) for clients in (self.again, self.queue) if clients]
            self._arm(max(min(dues), now + PAUSE_S))

    def _first(self, now: float) -> OrderedDict[Hashable, _Waiting] | None:
        """Where the client is that is to be called next; None if none is to be called now."""
        return next((each for each in (self.again, self.queue) if each and self._due_of(each) <= now), None)

    def _due_of(self, clients: OrderedDict[Hashable, _Waiting]) -> float:
        """When the first of them is to be called: its deadline, or since when it waits if it can be served."""
        waiting = next(iter(clients.values()))
        if self._may_serve(waiting.exclude):
            return waiting.since
        return waiting.since + self._limit_s(waiting.exclude)

    def stop(self) -> None:
        """Call all clients back now, and refuse to queue others."""
        self._stopped = True
        while self.waiting:
            _, waiting = (self.again or self.queue).popitem(last=False)
            self._counted()
            waiting.call()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
