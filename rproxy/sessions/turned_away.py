"""The log's word on clients that could not be served."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.pool import Pool

LOG_EVERY_S: Final = 10.0


class TurnedAway:
    """Counts the clients of an episode: the first is told at once, then their sum at most every `LOG_EVERY_S` seconds.

    An episode ends when nobody was turned away for that long, so that its last line tells the sum of all.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, pool: Pool) -> None:
        self._clock = clock
        self._pool = pool
        self._count = 0
        self._told = 0
        self._began = 0.0
        self._reason = ""
        self._timer: IDelayedCall | None = None

    def add(self, reason: str) -> None:
        self._count += 1
        self._reason = reason
        if self._timer is None:
            self._began = self._clock.seconds()
            self._tell()
            self._wait()

    def _wait(self) -> None:
        self._timer = self._clock.callLater(LOG_EVERY_S, self._look)

    def _tell(self) -> None:
        self._told = self._count
        self.log.warn(
            "{count} client(s) turned away{since}: {reason}; {eligible} of {known} back-ends may be used",
            count=self._count,
            since=f" in {self._clock.seconds() - self._began:.0f} s" if self._count > 1 else "",
            reason=self._reason,
            eligible=len(self._pool.eligible),
            known=len(self._pool),
        )

    def _look(self) -> None:
        self._timer = None
        if self._count > self._told:
            self._tell()
            self._wait()
        else:
            self._count = self._told = 0

    def stop(self) -> None:
        """No line is lost."""
        if self._count > self._told:
            self._tell()
        self._count = self._told = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
