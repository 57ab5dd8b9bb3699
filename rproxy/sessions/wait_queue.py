"""The clients for whom there is no back-end: they wait for one, first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.pool import Pool

AT_ONCE: Final = 32
"""Clients served in one go, a millisecond or two of work; then others have their turn."""
PAUSE_S: Final = 0.005
"""Between two goes. Thousands are served within a second, and by then other back-ends may have come to share them."""


class WaitQueue:
    """Calls every client back when a back-end may get it, or once it has waited `limit_s` seconds; 0: nobody waits.

    All waiting and leaving is O(1), and there is one timer for all.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, pool: Pool, limit_s: float) -> None:
        self._clock = clock
        self._pool = pool
        self._limit_s = limit_s
        self.queue: OrderedDict[Hashable, tuple[float, Callable[[], None]]] = OrderedDict()
        """When each client's time is over, the earliest first, and what is called then."""
        self._timer: IDelayedCall | None = None
        pool.when_eligible(self._come)

    def add(self, client: Hashable, call: Callable[[], None]) -> bool:
        """Whether the client may wait. It does not where the policy chose none of those that may get it."""
        if not self._limit_s or (self._pool.eligible and not self.queue):
            return False
        self.queue[client] = (self._clock.seconds() + self._limit_s, call)
        if self._timer is None:
            self._timer = self._clock.callLater(self._limit_s, self._turn)
        return True

    def leave(self, client: Hashable) -> None:
        self.queue.pop(client, None)
        if not self.queue and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _come(self) -> None:
        """A back-end may get clients from now on; the table is not done with it, so that it waits for a turn."""
        if self.queue and self._timer is not None:
            self._timer.reset(0)

    def _turn(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for _ in range(AT_ONCE):
            if not self.queue:
                return
            by, call = next(iter(self.queue.values()))
            if by > now and not self._pool.eligible:
                self._timer = self._clock.callLater(by - now, self._turn)
                return
            self.queue.popitem(last=False)
            try:
                call()
            except Exception:
                self.log.failure("a client that waited could not be served")
        if self.queue and self._timer is None:
            self._timer = self._clock.callLater(PAUSE_S, self._turn)

    def stop(self) -> None:
        """Call everybody back now, and let nobody wait any more."""
        self._limit_s = 0.0
        while self.queue:
            _, (_, call) = self.queue.popitem(last=False)
            call()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
