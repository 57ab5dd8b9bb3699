"""Logs clients that could not be served."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.pool.pool import Pool
from rproxy.sessions.endings import Ending
from rproxy.sessions.record import SessionRecord
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit
from rproxy.timing.throttle import Throttle

_REASONS: Final = {
    Ending.NO_BACKEND: "no back-end is up",
    Ending.UNREACHABLE: "no back-end could be connected to",
    Ending.QUEUE_FULL: "all back-ends are full, and so is the queue",
    Ending.QUEUE_TIMEOUT: "all back-ends were full for too long",
}


class RefusedClientsLog:
    """A `SessionObserver` that logs the first client of an episode at once, then the sum at most every `LOG_EVERY_S`.

    An episode ends once no client has been refused for `LOG_EVERY_S`, so its last line has the total.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, pool: Pool) -> None:
        self._clock = clock
        self._pool = pool
        self._throttle = Throttle(clock, RateLimit.once_in(LOG_EVERY_S))
        self._count = 0
        self._began = 0.0
        self._reason = ""

    def session_ended(self, record: SessionRecord) -> None:
        reason = _REASONS.get(record.ending)
        if reason is None:
            return
        if self._throttle.is_quiet(None):
            self._count, self._began = 0, self._clock.seconds()
        self._count += 1
        self._reason = reason
        self._throttle.say(None, self._log)

    def stop(self) -> None:
        """Log the total if there are clients since the last line. May be called twice."""
        self._throttle.flush()
        self._throttle.stop()

    def _log(self, times: int) -> None:
        self.log.warn(
            "{count} client(s) turned away{since}: {reason}; {eligible} of {known} back-ends may be used",
            count=self._count,
            since=f" in {self._clock.seconds() - self._began:.0f} s" if self._count > 1 else "",
            reason=self._reason,
            eligible=len(self._pool.eligible),
            known=len(self._pool),
        )
