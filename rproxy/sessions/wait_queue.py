"""Clients that wait for a back-end to become eligible: first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.events import EligibilityChanged
from rproxy.pool.pool import Pool

AT_ONCE: Final = 32
"""Most clients called back in one turn of the reactor: a millisecond or two of work."""
PAUSE_S: Final = 0.005
"""Pause between two such turns. Thousands are served within a second; meanwhile more back-ends may become eligible."""


class WaitQueue:
    """Calls clients back once a back-end of `pool` is eligible, or they have waited for `limit_s` seconds.

    With a limit of 0 no client may wait. Joining and leaving take O(1), and one timer serves all.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, pool: Pool, limit_s: float) -> None:
        self._clock = clock
        self._pool = pool
        self._limit_s = limit_s
        self.queue: OrderedDict[Hashable, tuple[float, Callable[[], None]]] = OrderedDict()
        """By client: its deadline and its callback. The order of arrival is also that of the deadlines."""
        self._timer: IDelayedCall | None = None

    def add(self, client: Hashable, call: Callable[[], None]) -> bool:
        """Have `call` called once a back-end is eligible or `client` has waited for `limit_s` seconds.

        Returns False if it may not wait: while back-ends are eligible and the policy chooses none, a wait is pointless.
        """
        if not self._limit_s or (self._pool.eligible and not self.queue):
            return False
        self.queue[client] = (self._clock.seconds() + self._limit_s, call)
        if self._timer is None:
            self._timer = self._clock.callLater(self._limit_s, self._turn)
        return True

    def leave(self, client: Hashable) -> None:
        """Remove a client that has gone; it may have been called back already."""
        self.queue.pop(client, None)
        if not self.queue and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def eligibility_changed(self, event: EligibilityChanged) -> None:
        """If a back-end has become eligible, call clients back in the reactor's next turn."""
        if event.eligible and self.queue and self._timer is not None:
            self._timer.reset(0)

    def _turn(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for _ in range(AT_ONCE):
            if not self.queue:
                return
            deadline, call = next(iter(self.queue.values()))
            if deadline > now and not self._pool.eligible:
                self._timer = self._clock.callLater(deadline - now, self._turn)
                return
            self.queue.popitem(last=False)
            try:
                call()
            except Exception:
                self.log.failure("a client that waited could not be served")
        if self.queue and self._timer is None:
            self._timer = self._clock.callLater(PAUSE_S, self._turn)

    def stop(self) -> None:
        """Call all clients back now, and refuse to queue others."""
        self._limit_s = 0.0
        while self.queue:
            _, (_, call) = self.queue.popitem(last=False)
            call()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
