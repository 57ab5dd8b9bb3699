"""The seams for those who are told what becomes of sessions: counters, logs, traces, metrics.

All of them are called synchronously, in the order in which they were passed to `Observers`, so they must be quick. An
exception of one is logged, at most every `LOG_EVERY_S` seconds, and reaches neither the session nor other observers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from twisted.logger import Logger

from rproxy.pool.backend import Backend
from rproxy.sessions.link import Link
from rproxy.sessions.record import SessionRecord
from rproxy.timing.rate_limit import RateLimit

LOG_EVERY_S: Final = 10.0


class SessionObserver(Protocol):
    """Is told of every session that ends."""

    def session_ended(self, record: SessionRecord) -> None:
        """Called once for each session, after its lease has been returned, whatever its ending."""
        ...


class ChoiceObserver(Protocol):
    """Is told of every choice. Where there is none, choosing costs nothing more."""

    def chosen(self, link: Link, backend: Backend | None) -> None:
        """Called when a back-end has been chosen for the client of `link`, and its lease taken; None: there is none.

        Called again for each further choice of the same session.
        """
        ...


class RedispatchObserver(Protocol):
    """Is told of sessions that are given to another back-end."""

    def redispatched(self, failed: Backend, backend: Backend) -> None:
        """Called when `backend` has been chosen for a session, after the connect to `failed` failed."""
        ...


class Observers:
    """Calls the observers of a service, and confines their exceptions.

    `seconds` is the clock by which failures are logged.
    """

    log = Logger()

    def __init__(
        self,
        seconds: Callable[[], float],
        *,
        sessions: Sequence[SessionObserver] = (),
        choices: Sequence[ChoiceObserver] = (),
        redispatches: Sequence[RedispatchObserver] = (),
    ) -> None:
        self._sessions = tuple(sessions)
        self.choices = tuple(choices)
        """To be looked at before `chosen` is called: mostly there are none."""
        self._redispatches = tuple(redispatches)
        self._seconds = seconds
        self._failures = RateLimit(1 / LOG_EVERY_S)

    def session_ended(self, record: SessionRecord) -> None:
        for observer in self._sessions:
            try:
                observer.session_ended(record)
            except Exception:
                self._log_failure()

    def chosen(self, link: Link, backend: Backend | None) -> None:
        for observer in self.choices:
            try:
                observer.chosen(link, backend)
            except Exception:
                self._log_failure()

    def redispatched(self, failed: Backend, backend: Backend) -> None:
        for observer in self._redispatches:
            try:
                observer.redispatched(failed, backend)
            except Exception:
                self._log_failure()

    def _log_failure(self) -> None:
        """Log the exception that is being handled."""
        if self._failures.admit(self._seconds()):
            self.log.failure("an observer of sessions failed; further failures in the next seconds are not logged")
