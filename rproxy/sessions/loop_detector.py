"""Detects loops through another proxy: a back-end of this proxy whose own back-end is this proxy.

Each client of such a loop occupies one session after another, until the capacity is exhausted; so a detector runs when
the capacity of the process, or of a service, is full. Among the idle sessions whose client comes from the host of their
back-end, it ends the newest. In a loop, and only there, many of the others end with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.pool.backend import Backend
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Slices, Sweep

SILENT_S: Final = 2.0
"""The sessions of a loop carry nothing for this long."""
COLLAPSE_S: Final = 1.0
"""Time for the other sessions of a loop to end."""
AGAIN_S: Final = 60.0
"""From a check that found no loop to the next one."""
SHARE: Final = 0.5
"""Least fraction of all sessions that counts as a loop: fewer leave capacity for other clients."""
COLLAPSED: Final = 0.1
"""Least fraction of the suspected sessions that must end with one of them: each client has a chain of its own."""
SESSIONS_MIN: Final = 8


class LoopDetector:
    """Checks for loops while `capacity` is full; calls `found` with the back-end that leads back to this proxy.

    `slices` lists the sessions that count for `capacity`: those of the process, or of one service.
    """

    log = Logger()

    def __init__(
        self, clock: IReactorTime, slices: Slices, capacity: Capacity, found: Callable[[Backend], object]
    ) -> None:
        self._clock = clock
        self._capacity = capacity
        self._found = found
        self._is_active = False
        """Whether a check is due or under way."""
        self._call: IDelayedCall | None = None
        self._carried: dict[Session, int] = {}
        """Bytes carried when the check began, by session whose client comes from its back-end's host."""
        self._barred: Backend | None = None
        self._ended = 0
        """Sessions of its loop that have ended."""
        self._listing = Sweep(clock, slices, self._record_bytes, self._recorded)
        self._ending = Sweep(clock, slices, self._end_if_barred, self._log_barred)
        capacity.when_full(self._full)

    def stop(self) -> None:
        self._is_active = False
        self._listing.stop()
        self._ending.stop()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _full(self) -> None:
        if not self._is_active:
            self._is_active = True
            self._after(SILENT_S, self._begin_check)

    def _after(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        self._call = self._clock.callLater(delay_s, self._proceed, call, *arguments)

    def _proceed(self, call: Callable[..., None], *arguments: Any) -> None:
        self._call = None
        call(*arguments)

    def _begin_check(self) -> None:
        self._carried = {}
        if self._capacity.full:
            self._listing.begin()
        else:
            self._is_active = False

    def _record_bytes(self, session: Session) -> None:
        if _comes_from_backend(session):
            self._carried[session] = sum(session.link.carried())

    def _recorded(self) -> None:
        if self._are_many(len(self._carried)):
            self._after(SILENT_S, self._end_newest)
        else:
            self._after(AGAIN_S, self._begin_check)

    def _are_many(self, sessions: int) -> bool:
        return sessions >= max(SHARE * self._capacity.sessions, SESSIONS_MIN)

    def _end_newest(self) -> None:
        """End the newest of those that have carried nothing since."""
        silent: defaultdict[Backend, list[Session]] = defaultdict(list)
        for session, before in self._carried.items():
            if session.is_connected and session.backend is not None and sum(session.link.carried()) == before:
                silent[session.backend].append(session)
        backend, sessions = max(silent.items(), key=lambda each: len(each[1]), default=(None, []))
        if backend is None or not self._capacity.full or not self._are_many(len(sessions)):
            self._after(AGAIN_S, self._begin_check)
            return
        newest = max(sessions, key=lambda session: session.connected_at or 0.0)
        newest.link.cut(Ending.STOPPED)
        sessions.remove(newest)
        self._after(COLLAPSE_S, self._judge, backend, sessions)

    def _judge(self, backend: Backend, sessions: list[Session]) -> None:
        """Report the back-end if enough of the suspected `sessions` have ended with the newest: they are a loop."""
        ended = sum(session.ending is not None for session in sessions)
        if ended < max(COLLAPSED * len(sessions), SESSIONS_MIN - 1):
            self._after(AGAIN_S, self._begin_check)
            return
        self._found(backend)
        self._barred, self._ended = backend, ended
        self._ending.begin()

    def _end_if_barred(self, session: Session) -> None:
        if session.backend is self._barred and _comes_from_backend(session):
            self._ended += 1
            session.link.cut(Ending.STOPPED)

    def _log_barred(self) -> None:
        assert self._barred is not None
        self.log.warn(
            "back-end {backend} leads back to this proxy: refused from now on; {sessions} sessions of the loop ended",
            backend=self._barred.name,
            sessions=self._ended,
        )
        self._barred = None
        self._is_active = False


def _comes_from_backend(session: Session) -> bool:
    """Whether the client's connection comes from the back-end's host, whatever a PROXY header says."""
    peer = session.link.peer_address()
    return peer is not None and session.backend is not None and peer[0] == session.backend.address
