"""Timeouts of sessions that carry nothing: a sweep over all of them now and then, and no timer each."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.carrying.carrier import Carrier
from rproxy.carrying.session import Ending, Session

SWEEPS: Final = 16
"""In one timeout, so that it is at most 1/16 late."""
_SWEEP_MIN_S: Final = 0.02


class Silence:
    """Cuts the sessions, half-closed or not, on which nothing moved for `limit_s` seconds.

    A peer that still takes what the kernel holds for it is not silent.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, carrier: Carrier, limit_s: float, *, half_closed: bool) -> None:
        self._clock = clock
        self._carrier = carrier
        self._limit_s = limit_s
        self._half_closed = half_closed
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        self._timer = self._clock.callLater(max(self._limit_s / SWEEPS, _SWEEP_MIN_S), self._sweep)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self.start()  # first, so that no error ends the sweeps
        silent = [
            session
            for session in self._carrier.connected()
            if session.half_closed is self._half_closed and self._is_silent(session)
        ]
        if silent:
            self._cut(silent)

    def _is_silent(self, session: Session) -> bool:
        taken = self._carrier.carried(session) - self._carrier.unsent(session)
        if taken != session.seen:
            session.seen = taken
            session.quiet = 0
        session.quiet += 1
        return session.quiet > SWEEPS

    def _cut(self, over: list[Session]) -> None:
        ending = Ending.HALF_CLOSED if self._half_closed else Ending.IDLE
        for session in over:
            self._carrier.cut(session, ending)
        self.log.info(
            "{count} session(s) closed: {ending} and silent for {seconds:g} s",
            count=len(over),
            ending=ending.value,
            seconds=self._limit_s,
        )
