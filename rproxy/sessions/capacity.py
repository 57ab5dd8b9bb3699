"""How many sessions the process may have: each takes two descriptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from rproxy.timing.rate_limit import RateLimit

RESERVED: Final = 40
"""Descriptors for everything but sessions and pipes: log, listeners, agents' port, operators, the reactor's own."""
PIPES_MAX: Final = 128
"""Most pipes; each has 1 MiB and takes two descriptors."""
_SESSIONS_PER_PIPE: Final = 8
SESSIONS_MAX: Final = 1_000_000
"""Most sessions, even without a limit of open files."""
LOG_EVERY_S: Final = 10.0


def pipes_for(descriptors: int) -> int:
    """The most pipes of a process that may have `descriptors` open files."""
    return min(PIPES_MAX, max(descriptors - RESERVED, 0) // 2 // _SESSIONS_PER_PIPE)


def sessions_for(descriptors: int) -> int:
    """The most sessions of a process that may have `descriptors` open files, in addition to its pipes."""
    return min(SESSIONS_MAX, max(descriptors - RESERVED, 0) // 2 - pipes_for(descriptors))


class Capacity:
    """Counts the sessions of all carriers and services against the limit of the process.

    A carrier that finds it `full` stops accepting and calls `wait`.
    """

    log = Logger()

    def __init__(self, sessions_max: int, seconds: Callable[[], float]) -> None:
        self.sessions_max = sessions_max
        self.sessions = 0
        self._seconds = seconds
        self._pausing: list[Callable[[], None]] = []
        self._waiting: list[Callable[[], None]] = []
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
        """Have `pause` called each time a session makes it full."""
        self._pausing.append(pause)

    def leave(self, sessions: int = 1) -> None:
        """Discount `sessions` that have ended, once their sockets are closed."""
        self.sessions -= sessions
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for resume in waiting:
                resume()

    def wait(self, resume: Callable[[], None]) -> None:
        """Have `resume` called once, when a session has ended. Logs that clients wait, at most every `LOG_EVERY_S`."""
        self._waiting.append(resume)
        if self._lines.admit(self._seconds()):
            self.log.warn(
                "{sessions} sessions, as many as fit (--max-connections, or the limit of open files): "
                "further clients wait",
                sessions=self.sessions,
            )
