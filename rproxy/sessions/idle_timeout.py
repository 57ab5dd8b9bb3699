"""Idle timeouts: a periodic sweep over all sessions instead of a timer for each."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Slices, Sweep

SWEEPS: Final = 16
"""Sweeps in one timeout, so that a session ends at most 1/16 of it late."""
_SWEEP_MIN_S: Final = 0.02


class IdleTimeout:
    """Cuts sessions that made no progress for `limit_s` seconds, except half-closed ones.

    Data that the kernel still holds for a peer counts as progress when the peer acknowledges it.
    """

    log = Logger()
    _half_closed = False
    """Which sessions it is for."""

    def __init__(self, clock: IReactorTime, slices: Slices, limit_s: float, *, replaces: bool = False) -> None:
        """`replaces` is whether it follows another one, of other limits: then it does not count what that one saw."""
        self._interval_s = max(limit_s / SWEEPS, _SWEEP_MIN_S)
        self._limits = {Ending.IDLE: limit_s}
        self._forgets = replaces
        self._cut: Counter[Ending] = Counter()
        """Sessions cut by the present sweep."""
        self._sweep = Sweep(clock, slices, self._check, self._log_cut)

    def start(self) -> None:
        self._sweep.repeat(self._interval_s)

    def stop(self) -> None:
        self._sweep.stop()

    def _check(self, session: Session) -> None:
        if session.half_closed is not self._half_closed:
            return
        acknowledged = sum(session.link.carried()) - session.link.unsent()
        if acknowledged != session.progress or self._forgets:
            session.progress = acknowledged
            session.idle_sweeps = 0
        session.idle_sweeps += 1
        if session.idle_sweeps > SWEEPS and (ending := self._ending(session)) is not None:
            self._cut[ending] += 1
            session.link.cut(ending)

    def _ending(self, session: Session) -> Ending | None:
        """How to end a session that has been idle for `limit_s`; None if it may stay for now."""
        return Ending.IDLE

    def _log_cut(self) -> None:
        self._forgets = False
        for ending, count in self._cut.items():
            self.log.info(
                "{count} session(s) closed: {ending} and silent for {seconds:g} s",
                count=count,
                ending=ending.value,
                seconds=self._limits[ending],
            )
        self._cut.clear()


class HalfCloseTimeout(IdleTimeout):
    """The same of half-closed sessions; while one side is alive but does not read, their limit is `reader_s` seconds,
    0 for none.
    """

    _half_closed = True

    def __init__(
        self, clock: IReactorTime, slices: Slices, limit_s: float, reader_s: float, *, replaces: bool = False
    ) -> None:
        super().__init__(clock, slices, limit_s, replaces=replaces)
        self._limits = {Ending.HALF_CLOSED: limit_s, Ending.IDLE: reader_s}
        self._reader_sweeps = reader_s / self._interval_s if reader_s else math.inf

    def _ending(self, session: Session) -> Ending | None:
        if session.idle_sweeps <= self._reader_sweeps and session.link.waits_for_reader():
            return None
        return Ending.IDLE if session.idle_sweeps > self._reader_sweeps > SWEEPS else Ending.HALF_CLOSED
