"""Sessions with a host that has vanished: it neither ends nor refuses anything.

TCP's keepalive finds it out where nothing is on its way to it. Where something is, the kernel would try for a quarter
of an hour. TCP_USER_TIMEOUT shortens that, but ends connections to hosts that are well, too, if these do not read for
as long: so this looks for itself.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.net.tcp_options import KEEPALIVE_EVERY_S, KEEPALIVE_PROBES, KEEPALIVE_S
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Slices, Sweep

VANISHED_S: Final = KEEPALIVE_S + KEEPALIVE_PROBES * KEEPALIVE_EVERY_S
"""As long as keepalive takes."""
EVERY_S: Final = 30.0


class DeadPeers:
    """Cuts the sessions one side of which has been sent something, and has not been heard for `VANISHED_S`."""

    log = Logger()

    def __init__(self, clock: IReactorTime, slices: Slices) -> None:
        self._sweep = Sweep(clock, slices, self._look, self._tell)
        self._count = 0

    def start(self) -> None:
        self._sweep.repeat(EVERY_S)

    def stop(self) -> None:
        self._sweep.stop()

    def _look(self, session: Session) -> None:
        if session.link.has_vanished(VANISHED_S):
            self._count += 1
            session.link.cut(Ending.VANISHED)

    def _tell(self) -> None:
        if self._count:
            self.log.info(
                "{count} session(s) closed: one side has taken nothing, and not been heard, for {seconds} s",
                count=self._count,
                seconds=VANISHED_S,
            )
            self._count = 0
