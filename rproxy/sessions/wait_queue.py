"""Clients that wait for a back-end to become eligible: first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from math import inf
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
    exclude: frozenset[Backend]
    call: Callable[[], None]


_Line = OrderedDict[Hashable, _Waiting]
"""Clients that wait for the same back-ends. The order of arrival is also that of the deadlines."""


class WaitQueue:
    """Calls clients back once a back-end of `pool` is eligible, or their time is over.

    `terms` returns the terms that apply now. How long they may wait depends on why they have to, as it is now: because
    those that are up are full, or because none is up. One timer serves all. Joining and leaving take O(1), or as long
    as there are lines of clients that could not connect.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, pool: Pool, terms: Callable[[], WaitTerms]) -> None:
        self._clock = clock
        self._pool = pool
        self._terms = terms
        self.queue: _Line = OrderedDict()
        """By client."""
        self.again: dict[frozenset[Backend], _Line] = {}
        """Those that could not connect to a back-end, by the ones that failed them; no line is empty. They came before
        the others, and are called before them, but do not keep anyone from back-ends that have failed them.
        """
        self.waiting = 0
        """The clients in both."""
        self._timer: IDelayedCall | None = None
        self._due = 0.0
        """When the timer fires."""
        self._in_turn = False
        self._only_full = False
        """Whether none may wait any more while no back-end is up."""
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
        may_serve = self._may_serve(exclude)
        if self._stopped or (may_serve and (waited_s is not None or not self.goes_first())):
            return False
        if waited_s is not None and not self.is_full_besides(exclude):
            return False
        limit_s = self._limit_s(exclude)
        if self.waiting >= self._most(may_serve) or (not may_serve and limit_s - (waited_s or 0.0) <= _TOLERANCE_S):
            return False
        since = self._clock.seconds() - (waited_s or 0.0)
        self._insert(client, _Waiting(since, frozenset(exclude), call))
        self._counted()
        self._arm(since if may_serve else since + limit_s)
        return True

    def _insert(self, client: Hashable, waiting: _Waiting) -> None:
        """Behind those that have waited as long, in all."""
        line = self.again.setdefault(waiting.exclude, OrderedDict()) if waiting.exclude else self.queue
        later = []
        while line and next(reversed(line.values())).since > waiting.since:
            later.append(line.popitem())
        line[client] = waiting
        line.update(reversed(later))

    def goes_first(self) -> bool:
        """Whether a client that waits goes before one that comes now: it could get what is eligible."""
        return bool(self.queue) or any(map(self._may_serve, self.again))

    def is_full_besides(self, exclude: Collection[Backend]) -> bool:
        """Whether a back-end that is none of `exclude` may get clients, but is full."""
        return self._pool.full > sum(backend.usable and backend.slot < 0 for backend in exclude)

    def refusal(self, exclude: Collection[Backend], *, waited: bool) -> Ending:
        """Why a client is turned away that could not connect to `exclude`, and has waited or has not."""
        precedes = self._may_serve(exclude) and self.goes_first()  # those that wait are about to fill what is free
        if (precedes or self.is_full_besides(exclude)) and (waited or not exclude):
            return Ending.QUEUE_TIMEOUT if waited else Ending.QUEUE_FULL
        return Ending.UNREACHABLE if exclude else Ending.NO_BACKEND

    def longest_s(self) -> float:
        """How long the first client has waited, in seconds; 0 if there is none."""
        return max((self._clock.seconds() - _first(line).since for line in self._lines()), default=0.0)

    def _lines(self) -> list[_Line]:
        """Those that are not empty, in the order in which they are served."""
        lines = sorted(self.again.values(), key=lambda line: _first(line).since) if self.again else []
        return [*lines, self.queue] if self.queue else lines

    def _may_serve(self, exclude: Collection[Backend]) -> bool:
        """Whether a back-end that is none of `exclude` is eligible."""
        return len(self._pool.eligible) > sum(backend.slot >= 0 for backend in exclude)

    def _limit_s(self, exclude: Collection[Backend]) -> float:
        """How long clients may wait that could not connect to `exclude`."""
        if self.is_full_besides(exclude):
            return self._terms().queue_timeout_s
        return 0.0 if self._only_full or (exclude and self._pool.eligible) else self._terms().wait_s

    def _most(self, may_serve: bool) -> float:
        """How many clients may wait. `may_serve` is whether a back-end has room for one that comes now.

        If so, those who wait are about to take it. Then not only full back-ends count, but all that have a limit; if
        any eligible one has none, the queue is not bounded.
        """
        pool = self._pool
        backends = pool.full
        if may_serve:
            backends = pool.limited if pool.limited == pool.full + len(pool.eligible) else 0
        return self._terms().queue * backends if backends else inf

    def terms_changed(self) -> None:
        """Those that wait, wait as long as the terms now say: see to them in the reactor's next turn."""
        if self.waiting:
            self._arm(self._clock.seconds())

    def leave(self, client: Hashable) -> None:
        """Remove a client that has gone; it may have been called back already."""
        for line in (self.queue, *self.again.values()):
            if client in line:
                self._remove(line, client)
                break
        if not self.waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _remove(self, line: _Line, client: Hashable) -> _Waiting:
        waiting = line.pop(client)
        if not line and waiting.exclude:
            del self.again[waiting.exclude]
        self._counted()
        return waiting

    def _counted(self) -> None:
        self.waiting = len(self.queue) + sum(map(len, self.again.values()))
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
            line = next((line for line in self._lines() if self._due_of(line) <= now), None)
            if line is None:
                break
            self._call_first(line)
        self._in_turn = False
        if self.waiting:
            self._arm(max(min(map(self._due_of, self._lines())), now + PAUSE_S))

    def _call_first(self, line: _Line) -> None:
        waiting = self._remove(line, next(iter(line)))
        try:
            waiting.call()
        except Exception:
            self.log.failure("a client that waited could not be served")

    def _due_of(self, line: _Line) -> float:
        """When the first of them is to be called: its deadline, or since when it waits if it can be served."""
        waiting = _first(line)
        if self._may_serve(waiting.exclude):
            return waiting.since
        return waiting.since + self._limit_s(waiting.exclude)

    def drain(self) -> None:
        """Call those back now that wait while no back-end is up; from now on only full ones are waited for."""
        self._only_full = True
        while line := next((line for line in self._lines() if self._limit_s(_first(line).exclude) <= 0.0), None):
            self._call_first(line)

    def stop(self) -> None:
        """Call all clients back now, and refuse to queue others."""
        self._stopped = True
        while lines := self._lines():
            self._call_first(lines[0])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _first(line: _Line) -> _Waiting:
    return next(iter(line.values()))
