"""Timeouts of sessions that carry nothing: a sweep over all of them now and then, and no timer each."""

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
"""In one timeout, so that it is at most 1/16 late."""
_SWEEP_MIN_S: Final = 0.02


class IdleTimeout:
    """Cuts the sessions, half-closed or not, on which nothing moved for `limit_s` seconds.

    A peer that still takes what the kernel holds for it is not silent. Half-closed sessions have another limit,
    `reader_s`, as long as one side is there, but does not read what has been sent to it; 0 for none.
    """

    log = Logger()

    def __init__(
        self, clock: IReactorTime, slices: Slices, limit_s: float, *, half_closed: bool, reader_s: float = 0
    ) -> None:
        self._half_closed = half_closed
        self._interval_s = max(limit_s / SWEEPS, _SWEEP_MIN_S)
        self._limits = {Ending.HALF_CLOSED if half_closed else Ending.IDLE: limit_s}
        self._reader_sweeps = 0.0
        if half_closed:
            self._limits[Ending.IDLE] = reader_s
            self._reader_sweeps = reader_s / self._interval_s if reader_s else math.inf
        self._over: Counter[Ending] = Counter()
        self._sweep = Sweep(clock, slices, self._look, self._tell)

    def start(self) -> None:
        self._sweep.repeat(self._interval_s)

    def stop(self) -> None:
        self._sweep.stop()

    def _look(self, session: Session) -> None:
        if session.half_closed is not self._half_closed:
            return
        taken = sum(session.link.carried()) - session.link.unsent()
        if taken != session.progress:
            session.progress = taken
            session.idle_sweeps = 0
        session.idle_sweeps += 1
        if session.idle_sweeps > SWEEPS and (ending := self._ending(session)) is not None:
            self._over[ending] += 1
            session.link.cut(ending)

    def _ending(self, session: Session) -> Ending | None:
        """As what a session that has been silent for the limit ends, or None if it is not to end yet."""
        if not self._half_closed:
            return Ending.IDLE
        if session.idle_sweeps <= self._reader_sweeps and session.link.waits_for_reader():
            return None
        return Ending.IDLE if session.idle_sweeps > self._reader_sweeps > SWEEPS else Ending.HALF_CLOSED

    def _tell(self) -> None:
        for ending, count in self._over.items():
            self.log.info(
                "{count} session(s) closed: {ending} and silent for {seconds:g} s",
                count=count,
                ending=ending.value,
                seconds=self._limits[ending],
            )
        self._over.clear()
