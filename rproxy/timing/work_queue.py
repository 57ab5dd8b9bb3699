"""Work that can wait, in pieces: none of it keeps a session waiting for longer than one piece takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class WorkQueue:
    """Does one piece of work in each turn of the reactor, in the order in which they were added."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: deque[Callable[[], None]] = deque()
        self._call: IDelayedCall | None = None

    def add(self, work: Callable[[], None]) -> None:
        """Do it in a turn to come, never in this one. It should take a millisecond at most."""
        self._waiting.append(work)
        if self._call is None:
            self._call = self._clock.callLater(0, self._next)

    def stop(self) -> None:
        """Forget what has not been done."""
        self._waiting.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _next(self) -> None:
        work = self._waiting.popleft()
        self._call = self._clock.callLater(0, self._next) if self._waiting else None
        try:
            work()
        except Exception:
            self.log.failure("a piece of work that could wait")
