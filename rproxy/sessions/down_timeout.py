"""Sessions of back-ends that have fallen silent, as one does whose host has vanished: they end soon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.pool.backend import Backend
from rproxy.pool.events import Transition
from rproxy.pool.health import FALL
from rproxy.pool.states import State
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Slices, Sweep

LIMIT_S: Final = 25.0
"""In which such a session must move something."""
EVERY_S: Final = 2.0
"""Between looks at the sessions, so that they end within 30 s."""


class DownTimeout:
    """Cuts the sessions on which nothing has moved for `LIMIT_S` while their back-end is down and silent. One that
    refuses connections, and whose agent answers, is there, and may well serve those it has.

    Where `panicking` has been true since, rather the network for the probes is at fault: then sessions stay whose
    back-end's host acknowledges TCP's keepalive.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, slices: Slices, panicking: Callable[[], bool]) -> None:
        self._clock = clock
        self._panicking = panicking
        self._down: dict[Backend, bool] = {}
        """The back-ends, and whether there has been a panic since they went down."""
        self._seen: dict[Session, tuple[int, float]] = {}
        """What their sessions had moved, and since when it is no more."""
        self._seen_now: dict[Session, tuple[int, float]] = {}
        """The same for those that the present sweep has come to."""
        self._cut = 0
        self._sweep = Sweep(clock, slices, self._look, self._swept)
        self._sweeping = False

    def heed(self, transition: Transition) -> None:
        """The state of a back-end has changed."""
        backend = transition.backend
        if transition.after is State.DOWN and backend.connections:
            self._down[backend] = False
            if not self._sweeping:
                self._sweeping = True
                self._sweep.repeat(EVERY_S)
        elif backend.is_up:
            self._down.pop(backend, None)

    def stop(self) -> None:
        self._sweep.stop()
        self._sweeping = False
        self._down.clear()
        self._seen.clear()
        self._seen_now.clear()

    def _look(self, session: Session) -> None:
        backend = session.backend
        if backend is None or (doubted := self._down.get(backend)) is None or not _is_silent(backend):
            return
        now = self._clock.seconds()
        moved = sum(session.link.carried()) - session.link.unsent()
        before = self._seen.get(session)
        if before is None or before[0] != moved:
            session.link.probe_backend()
        elif now - before[1] < LIMIT_S:
            self._seen_now[session] = before
            return
        elif not (doubted and session.link.backend_heard(LIMIT_S)):
            self._cut += 1
            session.link.cut(Ending.BACKEND_DOWN)
            return
        self._seen_now[session] = moved, now

    def _swept(self) -> None:
        self._seen, self._seen_now = self._seen_now, {}
        if self._cut:
            self.log.info(
                "{count} session(s) closed: their back-end is down, and nothing moved for {seconds:g} s",
                count=self._cut,
                seconds=LIMIT_S,
            )
            self._cut = 0
        panicking = self._panicking()
        self._down = {backend: doubted or panicking for backend, doubted in self._down.items() if backend.connections}
        if not self._down:
            self.stop()


def _is_silent(backend: Backend) -> bool:
    """Of one that is down. Connects to a host that has vanished fail, too, and perhaps before its probes do."""
    return not backend.refusing or backend.misses >= FALL
