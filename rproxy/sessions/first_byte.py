"""Finds the back-ends whose service hangs behind a live kernel and a live agent: it accepts, and never answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.pool.backend import Backend
from rproxy.pool.health import REFUSALS
from rproxy.pool.pool import Pool
from rproxy.sessions.link import Link

LOOKS: Final = 10
"""In one limit, so that it is at most a tenth late."""
YOUNG_MAX: Final = 256
"""Sessions of one back-end looked at; the first byte of any forgets them all."""


class Watched(Protocol):
    """What is looked at of a session: see there."""

    link: Link
    backend: Backend | None
    connected_at: float | None
    up: int
    down: int
    backend_spoke_first: bool


@attrs.define
class _Watch:
    """One back-end's sessions since the last that got its first byte."""

    young: dict[Watched, None] = attrs.Factory(dict)
    left: int = 0
    """Sessions over whose clients asked for something, waited, and got nothing."""
    left_since: float = float("inf")
    """When the first of them connected."""
    spoke_at: float = float("-inf")

    def forget(self) -> None:
        self.young.clear()
        self.left = 0
        self.left_since = float("inf")


class FirstByte:
    """Tells `mute` of a back-end of which no session got a byte for `limit_s` seconds, though several asked for one.

    A client has asked once it has sent a byte; where the service speaks first, as soon as it is connected. It only
    counts while other back-ends that may get clients do answer.
    """

    def __init__(
        self, clock: IReactorTime, pool: Pool, limit_s: float, mute: Callable[[Backend, int, float], None]
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._limit_s = limit_s
        self._mute = mute
        self._watches: dict[Backend, _Watch] = {}
        self._greeted_at = float("-inf")
        """When any back-end last spoke to a client that had not said a word."""
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        self._wait()

    def _wait(self) -> None:
        self._timer = self._clock.callLater(self._limit_s / LOOKS, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connected(self, session: Watched) -> None:
        assert session.backend is not None
        watch = self._watches.get(session.backend)
        if watch is None:
            watch = self._watches[session.backend] = _Watch()
        if len(watch.young) < YOUNG_MAX:
            watch.young[session] = None

    def left(self, session: Watched, backend: Backend) -> None:
        """A connected session goes on with another back-end."""
        watch = self._watches.get(backend)
        if watch is not None:
            watch.young.pop(session, None)

    def ended(self, session: Watched, backend: Backend) -> None:
        """A connected session is over, and its bytes are counted."""
        watch = self._watches.get(backend)
        if watch is None:
            return
        watch.young.pop(session, None)
        began, now = _began(session), self._clock.seconds()
        if session.down:
            self._spoke(watch, now, greeted=session.backend_spoke_first or not session.up)
        elif began >= watch.spoke_at and now - began >= self._limit_s / LOOKS and self._asked(session.up, session):
            watch.left += 1
            watch.left_since = min(watch.left_since, began)

    def _spoke(self, watch: _Watch, now: float, *, greeted: bool) -> None:
        watch.forget()
        watch.spoke_at = now
        if greeted:
            self._greeted_at = now

    def _look(self) -> None:
        self._wait()  # first, so that no error ends it
        now = self._clock.seconds()
        for backend, watch in list(self._watches.items()):
            if not self._has_spoken(watch, now):
                self._judge(backend, watch, now)
            if backend.slot < 0 and not watch.young:
                del self._watches[backend]

    def _has_spoken(self, watch: _Watch, now: float) -> bool:
        for session in watch.young:
            up, down = session.link.carried()
            if down:
                self._spoke(watch, now, greeted=session.backend_spoke_first or not up)
                return True
        return False

    def _judge(self, backend: Backend, watch: _Watch, now: float) -> None:
        """It is mute if it was for the whole limit, and half of that to several sessions."""
        began = [_began(session) for session in watch.young if self._asked(session.link.carried()[0], session)]
        waited = sum(now - each >= self._limit_s / 2 for each in began) + watch.left
        since = min([*began, watch.left_since])
        if waited < REFUSALS or now - since < self._limit_s:
            return
        if any(other.spoke_at > since for each, other in self._watches.items() if other is not watch and each.eligible):
            watch.forget()
            self._mute(backend, waited, now - since)

    def _asked(self, up: int, session: Watched) -> bool:
        """Whether its client, who sent so many bytes, may expect an answer. Its own back-end has not spoken since."""
        return up > 0 or self._greeted_at > _began(session)


def _began(session: Watched) -> float:
    assert session.connected_at is not None
    return session.connected_at
