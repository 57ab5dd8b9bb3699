"""Ends sessions whose client or back-end is on a host that has vanished without closing its connections.

On a connection with nothing in flight, TCP keepalive detects that. With data in flight, the kernel retransmits for a
quarter of an hour. TCP_USER_TIMEOUT would shorten that, but it also ends connections to live hosts that do not read for
as long; so the acknowledgements are checked here.
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
"""As long as keepalive takes to detect it."""
EVERY_S: Final = 30.0
"""Between two sweeps."""


class DeadPeers:
    """Cuts sessions in which either side was sent data and has acknowledged nothing for `VANISHED_S` seconds."""

    log = Logger()

    def __init__(self, clock: IReactorTime, slices: Slices) -> None:
        self._sweep = Sweep(clock, slices, self._check, self._log_cut)
        self._cut = 0
        """Sessions cut by the present sweep."""

    def start(self) -> None:
        self._sweep.repeat(EVERY_S)

    def stop(self) -> None:
        self._sweep.stop()

    def _check(self, session: Session) -> None:
        if session.link.has_vanished(VANISHED_S):
            self._cut += 1
            session.link.cut(Ending.VANISHED)

    def _log_cut(self) -> None:
        if self._cut:
            self.log.info(
                "{count} session(s) closed: one side has taken nothing, and not been heard, for {seconds} s",
                count=self._cut,
                seconds=VANISHED_S,
            )
            self._cut = 0
