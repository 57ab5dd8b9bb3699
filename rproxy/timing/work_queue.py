"""Deferrable work in small pieces: no session is delayed by more than one piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class WorkQueue:
    """Does one piece of work in each turn of the reactor, first in, first out. There is no timer while it is empty."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: deque[Callable[[], None]] = deque()
        self._call: IDelayedCall | None = None

    def add(self, piece: Callable[[], None]) -> None:
        """Call `piece` in a later turn, never in this one. It should take 1 ms at most; what it raises is logged."""
        self._waiting.append(piece)
        if self._call is None:
            self._call = self._clock.callLater(0, self._next)

    def stop(self) -> None:
        """Drop all pieces. May be called twice."""
        self._waiting.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _next(self) -> None:
        piece = self._waiting.popleft()
        self._call = self._clock.callLater(0, self._next) if self._waiting else None
        try:
            piece()
        except Exception:
            self.log.failure("a piece of work that could wait")
