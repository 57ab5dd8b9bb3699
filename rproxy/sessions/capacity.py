"""How many sessions the process may have: each takes two descriptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit

RESERVED: Final = 40
"""Descriptors for everything but sessions and pipes: log, listeners, agents' port, operators, the reactor's own."""
PIPES_MAX: Final = 128
"""Most pipes; each has 1 MiB and takes two descriptors."""
_SESSIONS_PER_PIPE: Final = 8
SESSIONS_MAX: Final = 1_000_000
"""Most sessions, even without a limit of open files."""


def pipes_for(descriptors: int) -> int:
    """The most pipes of a process that may have `descriptors` open files."""
    return min(PIPES_MAX, max(descriptors - RESERVED, 0) // 2 // _SESSIONS_PER_PIPE)


def sessions_for(descriptors: int) -> int:
    """The most sessions of a process that may have `descriptors` open files, in addition to its pipes."""
    return min(SESSIONS_MAX, max(descriptors - RESERVED, 0) // 2 - pipes_for(descriptors))


class Capacity:
    """Counts sessions against a limit: those of the process on all carriers, or of one service.

    A carrier that finds it `full` stops accepting on the listeners that it counts, and calls `wait`.
    """

    log = Logger()

    def __init__(
        self,
        sessions_max: int,
        seconds: Callable[[], float],
        reason: str = "as many as fit (--max-connections, or the limit of open files)",
    ) -> None:
        """`reason` says in the log why there are no more."""
        self.sessions_max = sessions_max
        self.sessions = 0
        self.reason = reason
        self._seconds = seconds
        self._pausing: list[Callable[[], None]] = []
        self.waiting: list[Callable[[], None]] = []
        """Called once a session has ended. Read by carriers that decrement `sessions` inline."""
        self._lines = RateLimit.once_in(LOG_EVERY_S)

    @property
    def full(self) -> bool:
        return self.sessions >= self.sessions_max

    def enter(self) -> None:
        """Count a session that has begun."""
        self.sessions += 1
        if self.sessions >= self.sessions_max:
            self.filled()

    def filled(self) -> None:
        """Run the callbacks of `when_full`. Called by `enter`, or by a carrier that increments `sessions` inline."""
        for pause in self._pausing:
            pause()

    def when_full(self, pause: Callable[[], None]) -> None:
        """Have `pause` called, once, each time a session makes it full."""
        if pause not in self._pausing:
            self._pausing.append(pause)

    def leave(self, sessions: int = 1) -> None:
        """Discount `sessions` that have ended, once their sockets are closed."""
        self.sessions -= sessions
        if self.waiting:
            self.resume()

    def resume(self) -> None:
        """Run the callbacks of `wait`. Called by `leave`, or by a carrier that decrements `sessions` inline."""
        waiting, self.waiting = self.waiting, []
        for resume in waiting:
            resume()

    def resize(self, sessions_max: int) -> None:
        """Change the limit. Sessions beyond a lower one go on."""
        was_full, self.sessions_max = self.full, sessions_max
        if self.full and not was_full:
            self.filled()
        elif was_full and not self.full:
            self.resume()

    def wait(self, resume: Callable[[], None]) -> None:
        """Have `resume` called once, when a session has ended. Logs that clients wait, at most every `LOG_EVERY_S`."""
        if resume not in self.waiting:
            self.waiting.append(resume)
        if self._lines.admit(self._seconds()):
            self.log.warn(
                "{sessions} sessions, {reason}: further clients wait", sessions=self.sessions, reason=self.reason
            )
