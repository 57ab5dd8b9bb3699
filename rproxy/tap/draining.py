"""The end of a proxy's sessions: they may go on for a while after it has been told to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rproxy.sessions.capacity import Capacity
from rproxy.timing.rate_limit import LOG_EVERY_S

POLL_S: Final = 0.05


class Draining:
    """Waits until no session is left, or their time is over, and logs how many are left.

    `tell` gets their number at once and then every `LOG_EVERY_S`, while there are some.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, capacity: Capacity, timeout_s: float, tell: Callable[[int], None] = lambda sessions: None
    ) -> None:
        self._reactor = reactor
        self._capacity = capacity
        self.timeout_s = timeout_s
        """From the start on; may be changed before."""
        self._tell = tell
        self._deadline = self._log_at = 0.0
        self._at_once = False
        self._has_logged = False
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def start(self) -> None:
        """The stop has begun: the time runs from now on."""
        now = self._reactor.seconds()
        self._deadline = now + self.timeout_s
        self._log_at = now
        self._log(now)

    def wait(self) -> Deferred[Any]:
        """Fires when the sessions have ended, or are to be ended. Call it when nothing accepts clients any more."""
        return self._loop.start(POLL_S)

    def end(self) -> None:
        """Their time is over now."""
        self._at_once = True
        if self._loop.running:
            self._look()

    def _look(self) -> None:
        now = self._reactor.seconds()
        sessions = self._capacity.sessions
        if not sessions:
            self._loop.stop()
            if self._has_logged:
                self.log.info("stopping: no session is left")
        elif self._at_once or now >= self._deadline:
            self._loop.stop()
            self.log.info("stopping: {sessions} session(s) left, which are reset", sessions=sessions)
        else:
            self._log(now)

    def _log(self, now: float) -> None:
        sessions = self._capacity.sessions
        if not sessions or now < self._log_at or not self.timeout_s:
            return
        self._log_at += LOG_EVERY_S
        self._has_logged = True
        self._tell(sessions)
        self.log.info(
            "stopping: {sessions} session(s) left, which may go on for {left_s:.0f} s",
            sessions=sessions,
            left_s=self._deadline - now,
        )
