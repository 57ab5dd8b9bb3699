"""Moves clients away from back-ends: ends the sessions that these have, little by little."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappush, heappushpop
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.pool.backend import Backend
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Slices, Sweep

PER_S_MAX: Final = 10_000.0
"""The highest rate that may be asked for. `AT_ONCE` and `PAUSE_S` limit the real one to 1,600 a second."""
LOOK_S: Final = 1.0
"""Interval at which all sessions are looked at, in s: those that have carried nothing since the last look are idle."""
AT_ONCE: Final = 16
"""Most sessions cut in one turn of the reactor: about a millisecond of work."""
PAUSE_S: Final = 0.01
"""Between two such turns, in s."""

_Progress = tuple[int, float]
"""The bytes that a session has carried, and when they were first seen to be that many."""
_Rank = tuple[float, int, Session]
"""Since when a session has been idle, and its number, both negated: the first one to be cut ranks highest."""


class _Shed:
    """The sessions of one back-end that were connected at `began_at`; at most `per_s` a second are cut."""

    def __init__(self, backend: Backend, per_s: float, now: float, done: Callable[[int], None]) -> None:
        self.backend = backend
        self.done = done
        self.per_s = per_s
        self.began_at = now
        self.looks = 0
        self.cut = 0
        self.due = now
        """When the next one may be cut."""
        self.call: IDelayedCall | None = None
        self.progress: dict[Session, _Progress] = {}
        """As of the last look."""
        self._progress_now: dict[Session, _Progress] = {}
        """As of the present look."""
        self._first: list[_Rank] = []
        """A heap of as many as can be cut until the next look: those that are idle for longest, then the oldest."""
        self.next: deque[Session] = deque()
        """The same of the last look, in order."""

    def look(self, session: Session, now: float) -> None:
        if session.connected_at is None or session.connected_at > self.began_at:
            return
        carried = sum(session.link.carried())
        progress = self.progress.get(session)
        if progress is None or progress[0] != carried:
            progress = carried, now
        self._progress_now[session] = progress
        rank = -progress[1], -session.id, session
        if len(self._first) <= min(self.per_s, AT_ONCE / PAUSE_S) * LOOK_S:
            heappush(self._first, rank)
        else:
            heappushpop(self._first, rank)

    def looked(self) -> bool:
        """A look at all sessions is over. Returns whether any is left; the first look may have missed some."""
        self.progress, self._progress_now = self._progress_now, {}
        first, self._first = self._first, []
        self.looks += 1
        if self.looks == 1:
            return True
        self.next = deque(session for *_, session in sorted(first, reverse=True))
        return bool(self.next)


class Shedding:
    """Cuts the connected sessions of back-ends as `Ending.SHED`, those that are idle first.

    `slices` lists all sessions. Nothing is cut in the first second: only a second look tells which ones are idle.
    """

    def __init__(self, clock: IReactorTime, slices: Slices) -> None:
        self._clock = clock
        self._sheds: dict[Backend, _Shed] = {}
        self._sweep = Sweep(clock, slices, self._look, self._looked)

    def begin(self, backend: Backend, per_s: float, done: Callable[[int], None]) -> None:
        """Cut the sessions that the back-end has now, at most `per_s` a second: above 0, up to `PER_S_MAX`.

        `done` is called with how many were cut once none of them is left. Another call for the same back-end changes
        the rate at once, and includes sessions that have come since.
        """
        now = self._clock.seconds()
        if not self._sheds:
            self._sweep.repeat(LOOK_S)
        shed = self._sheds.get(backend)
        if shed is None:
            self._sheds[backend] = _Shed(backend, per_s, now, done)
        else:
            shed.per_s, shed.began_at, shed.done = per_s, now, done
            shed.due = min(shed.due, now + 1 / per_s)
            if shed.call is not None:
                shed.call.reset(max(shed.due - now, PAUSE_S))
        self._sweep.begin()

    def end(self, backend: Backend) -> int | None:
        """Stop shedding a back-end. Returns how many sessions were cut; None if it was not being shed."""
        shed = self._sheds.pop(backend, None)
        if shed is None:
            return None
        if shed.call is not None:
            shed.call.cancel()
        if not self._sheds:
            self._sweep.stop()
        return shed.cut

    def stop(self) -> None:
        """Stop shedding all back-ends. May be called twice."""
        for backend in list(self._sheds):
            self.end(backend)

    def _look(self, session: Session) -> None:
        if session.backend is not None and (shed := self._sheds.get(session.backend)) is not None:
            shed.look(session, self._clock.seconds())

    def _looked(self) -> None:
        now = self._clock.seconds()
        for shed in list(self._sheds.values()):
            if not shed.looked():
                self.end(shed.backend)
                shed.done(shed.cut)
            elif shed.call is None and shed.next:
                shed.due = max(shed.due, now)
                self._cut(shed)

    def _cut(self, shed: _Shed) -> None:
        """Cut those that are due, and schedule the next one."""
        shed.call = None
        now = self._clock.seconds()
        left = AT_ONCE
        while shed.next and shed.due <= now and left:
            session = shed.next.popleft()
            if session.backend is shed.backend:  # it has not ended meanwhile
                session.link.cut(Ending.SHED)
                shed.cut += 1
                shed.due += 1 / shed.per_s
                left -= 1
        if shed.next:
            shed.call = self._clock.callLater(max(shed.due - now, PAUSE_S), self._cut, shed)
