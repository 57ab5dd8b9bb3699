"""Ends the sessions of back-ends that are down by silence, as they are when their host has vanished."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.pool.backend import Backend
from rproxy.pool.events import PanicChanged, Transitioned
from rproxy.pool.health import is_silent
from rproxy.pool.states import Administration, State
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Slices, Sweep

LIMIT_S: Final = 25.0
"""A session without progress for this long is cut."""
EVERY_S: Final = 2.0
"""Between two sweeps, so that sessions end within 30 s."""


class DownTimeout:
    """Cuts sessions without progress for `LIMIT_S` seconds while their back-end is down by silence.

    A back-end that is down because it refuses connections, but whose agent answers, may still serve the sessions that
    it has: they stay. So do those of one that an operator has in maintenance. If the pool has panicked since it went
    down, the probes' network is the likelier cause: then sessions stay as long as the back-end's host acknowledges TCP
    keepalive probes.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, slices: Slices) -> None:
        self._clock = clock
        self._panicking = False
        self._down: dict[Backend, bool] = {}
        """Back-ends that are down and have sessions, and whether the pool has panicked since they went down."""
        self._seen: dict[Session, tuple[int, float]] = {}
        """By session: the byte count at the last progress, and when that was noticed."""
        self._seen_now: dict[Session, tuple[int, float]] = {}
        """The same, for the sessions that the present sweep has reached."""
        self._cut = 0
        self._sweep = Sweep(clock, slices, self._check, self._swept)
        self._sweeping = False

    def transitioned(self, transition: Transitioned) -> None:
        """A back-end went from one state to another."""
        backend = transition.backend
        if transition.after is State.DOWN and backend.connections:
            self._down[backend] = self._panicking
            if not self._sweeping:
                self._sweeping = True
                self._sweep.repeat(EVERY_S)
        elif backend.is_up:
            self._down.pop(backend, None)

    def panic_changed(self, event: PanicChanged) -> None:
        """A panic has begun or ended."""
        self._panicking = event.panicking
        if event.panicking:
            self._down = dict.fromkeys(self._down, True)

    def stop(self) -> None:
        self._sweep.stop()
        self._sweeping = False
        self._down.clear()
        self._seen.clear()
        self._seen_now.clear()

    def _check(self, session: Session) -> None:
        backend = session.backend
        if backend is None or (had_panic := self._down.get(backend)) is None or not is_silent(backend):
            return
        if backend.administration is Administration.MAINT:
            return
        now = self._clock.seconds()
        moved = sum(session.link.carried()) - session.link.unsent()
        before = self._seen.get(session)
        if before is None or before[0] != moved:
            session.link.probe_backend()
        elif now - before[1] < LIMIT_S:
            self._seen_now[session] = before
            return
        elif not (had_panic and session.link.backend_heard(LIMIT_S)):
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
        self._down = {backend: had_panic for backend, had_panic in self._down.items() if backend.connections}
        if not self._down:
            self.stop()
