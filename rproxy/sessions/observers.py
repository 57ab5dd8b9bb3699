"""Seams for observers of sessions: counters, logs, traces, metrics.

Observers are called synchronously, in the order in which they were passed to `Observers`, so they must be quick. An
exception of one is logged, at most every `LOG_EVERY_S` seconds; the session and the other observers go on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from twisted.logger import Logger

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.sessions.link import Link
from rproxy.sessions.record import SessionRecord
from rproxy.timing.cpu_budget import CpuBudget
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit


class SessionObserver(Protocol):
    """Observes how sessions end."""

    def session_ended(self, record: SessionRecord) -> None:
        """Called once for each session, after its lease has been returned, whatever its ending."""
        ...


class ChoiceObserver(Protocol):
    """Observes every choice of a back-end. A service without such observers pays nothing for them."""

    def choosing(self, link: Link) -> None:
        """Called before a back-end is chosen for the client of `link`: the pool is as the policy will find it.

        Called again for each further choice of the same session.
        """
        ...

    def chosen(self, link: Link, backend: Backend | None) -> None:
        """Called after `choosing`, once the lease is taken; `backend` is None if no back-end could be chosen."""
        ...


class ChoiceRecorder(Protocol):
    """Records how back-ends are chosen, as far as its budget goes. A service without one pays nothing for it."""

    budget: CpuBudget
    """A choice before `budget.due`, on the service's clock, is made without calling the recorder."""

    def choose(
        self, session: int, link: Link, now: float, exclude: Collection[Backend], client: Address | None
    ) -> Backend | None:
        """Called in the place of `Pool.choose`, whose result it returns. Raises nothing.

        `session` is the number of the session, and `client` None unless the policy gets the client's address.
        """
        ...


class RedispatchObserver(Protocol):
    """Observes redispatches of sessions to another back-end."""

    def redispatched(self, failed: Backend, backend: Backend) -> None:
        """Called when `backend` has been chosen for a session, after the connect to `failed` failed."""
        ...


class Observers:
    """Calls the observers of a service, and logs their exceptions. `seconds` is a monotonic clock."""

    log = Logger()

    def __init__(
        self,
        seconds: Callable[[], float],
        *,
        sessions: Sequence[SessionObserver] = (),
        choices: Sequence[ChoiceObserver] = (),
        redispatches: Sequence[RedispatchObserver] = (),
    ) -> None:
        self.sessions = tuple(sessions)
        """May be replaced, as when an access log is turned on."""
        self.choices = tuple(choices)
        """Empty in most services: then skip the calls of `choosing` and `chosen`."""
        self._redispatches = tuple(redispatches)
        self._seconds = seconds
        self._failures = RateLimit.once_in(LOG_EVERY_S)

    def session_ended(self, record: SessionRecord) -> None:
        """Call all observers of ends."""
        for observer in self.sessions:
            try:
                observer.session_ended(record)
            except Exception:
                self._log_failure()

    def choosing(self, link: Link) -> None:
        """Call all observers of choices."""
        for observer in self.choices:
            try:
                observer.choosing(link)
            except Exception:
                self._log_failure()

    def chosen(self, link: Link, backend: Backend | None) -> None:
        """Call all observers of choices."""
        for observer in self.choices:
            try:
                observer.chosen(link, backend)
            except Exception:
                self._log_failure()

    def redispatched(self, failed: Backend, backend: Backend) -> None:
        """Call all observers of redispatches."""
        for observer in self._redispatches:
            try:
                observer.redispatched(failed, backend)
            except Exception:
                self._log_failure()

    def _log_failure(self) -> None:
        """Log the exception that is being handled."""
        if self._failures.admit(self._seconds()):
            self.log.failure("an observer of sessions failed; further failures in the next seconds are not logged")
