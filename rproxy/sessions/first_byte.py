"""Finds back-ends whose service hangs behind a live kernel and a live agent: it accepts clients and never answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.pool.backend import Backend
from rproxy.pool.health import REFUSALS
from rproxy.sessions.link import Link

CHECKS: Final = 10
"""Checks in one limit, so that a back-end is reported at most a tenth of it late."""
UNANSWERED_MAX: Final = 256
"""Most sessions without a byte that are watched for each back-end; the first byte on any clears them all."""


class WatchedSession(Protocol):
    """The part of a `Session` that `FirstByte` reads."""

    link: Link
    backend: Backend | None
    connected_at: float | None
    up: int
    down: int
    backend_spoke_first: bool


@attrs.define
class _Watch:
    """A back-end's sessions since it last sent any of them a first byte."""

    unanswered: dict[WatchedSession, None] = attrs.Factory(dict)
    """Connected sessions without a byte from the back-end."""
    abandoned: int = 0
    """Sessions that ended without a byte, after their clients had sent a request and waited."""
    abandoned_since: float = float("inf")
    """When the first of them was connected."""
    answered_at: float = float("-inf")
    """When a byte from the back-end was last noticed."""

    def clear(self) -> None:
        self.unanswered.clear()
        self.abandoned = 0
        self.abandoned_since = float("inf")


class FirstByte:
    """Calls `unresponsive` with a back-end whose sessions got no byte for `limit_s` seconds.

    At least `REFUSALS` of them must have asked for one; `unresponsive` also gets their number, and the seconds without
    a byte. A client has asked once it has sent a byte; where the service speaks first, as in SMTP, once it is
    connected. The silence counts only while other eligible back-ends answer.
    """

    def __init__(
        self, clock: IReactorTime, limit_s: float, unresponsive: Callable[[Backend, int, float], None]
    ) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._unresponsive = unresponsive
        self._watches: dict[Backend, _Watch] = {}
        self._spoke_first_at = float("-inf")
        """When any back-end last spoke to a client that had sent nothing."""
        self._timer: IDelayedCall | None = None

    def limit(self, limit_s: float) -> None:
        """Have the sessions that are watched now, and all others, judged by this limit."""
        self._limit_s = limit_s

    def start(self) -> None:
        self._timer = self._clock.callLater(self._limit_s / CHECKS, self._check)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connected(self, session: WatchedSession) -> None:
        """The session is connected to its back-end."""
        assert session.backend is not None
        watch = self._watches.get(session.backend)
        if watch is None:
            watch = self._watches[session.backend] = _Watch()
        if len(watch.unanswered) < UNANSWERED_MAX:
            watch.unanswered[session] = None

    def redispatched(self, session: WatchedSession, backend: Backend) -> None:
        """A connected session is leaving `backend` for another one."""
        watch = self._watches.get(backend)
        if watch is not None:
            watch.unanswered.pop(session, None)

    def ended(self, session: WatchedSession, backend: Backend) -> None:
        """A session that was connected to `backend` is over; its `up` and `down` are final."""
        watch = self._watches.get(backend)
        if watch is None:
            return
        watch.unanswered.pop(session, None)
        connected_at, now = _connected_at(session), self._clock.seconds()
        if session.down:
            self._answered(watch, now, spoke_first=session.backend_spoke_first or not session.up)
        elif (
            connected_at >= watch.answered_at
            and now - connected_at >= self._limit_s / CHECKS
            and self._has_asked(session.up, session)
        ):
            watch.abandoned += 1
            watch.abandoned_since = min(watch.abandoned_since, connected_at)

    def _answered(self, watch: _Watch, now: float, *, spoke_first: bool) -> None:
        watch.clear()
        watch.answered_at = now
        if spoke_first:
            self._spoke_first_at = now

    def _check(self) -> None:
        self.start()  # first, so that an exception does not end the checks
        now = self._clock.seconds()
        for backend, watch in list(self._watches.items()):
            if not self._has_answered(watch, now):
                self._judge(backend, watch, now)
            if not backend.usable and not watch.unanswered:
                del self._watches[backend]

    def _has_answered(self, watch: _Watch, now: float) -> bool:
        for session in watch.unanswered:
            up, down = session.link.carried()
            if down:
                self._answered(watch, now, spoke_first=session.backend_spoke_first or not up)
                return True
        return False

    def _judge(self, backend: Backend, watch: _Watch, now: float) -> None:
        """Report it if no byte came for the whole limit, and several sessions waited for at least half of it."""
        asked = [
            _connected_at(session)
            for session in watch.unanswered
            if self._has_asked(session.link.carried()[0], session)
        ]
        waited = sum(now - connected_at >= self._limit_s / 2 for connected_at in asked) + watch.abandoned
        since = min([*asked, watch.abandoned_since])
        if waited < REFUSALS or now - since < self._limit_s:
            return
        others = [(each, other) for each, other in self._watches.items() if other is not watch]
        if any(each.usable and other.answered_at > since for each, other in others):
            watch.clear()
            self._unresponsive(backend, waited, now - since)

    def _has_asked(self, up: int, session: WatchedSession) -> bool:
        """Whether the client, which has sent `up` bytes, may expect an answer."""
        return up > 0 or self._spoke_first_at > _connected_at(session)


def _connected_at(session: WatchedSession) -> float:
    assert session.connected_at is not None
    return session.connected_at
