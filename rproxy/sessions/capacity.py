"""How many sessions fit into the process."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from rproxy.timing.rate_limit import RateLimit

RESERVED: Final = 40
"""Descriptors for all but sessions and pipes: log, listeners, monitor, operators, the reactor's own."""
PIPES_MAX: Final = 128
"""Of 1 MiB each, and two descriptors."""
_PIPES_SHARE: Final = 8
SESSIONS_MAX: Final = 1_000_000
"""Where descriptors set no limit."""
LOG_EVERY_S: Final = 10.0


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one, where the system lets us; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS takes no infinite one
        hard = soft
    return SESSIONS_MAX * 4 if hard == resource.RLIM_INFINITY else hard


def pipes_for(descriptors: int) -> int:
    """How many pipes a process of so many descriptors may have."""
    return min(PIPES_MAX, max(descriptors - RESERVED, 0) // 2 // _PIPES_SHARE)


def sessions_for(descriptors: int) -> int:
    """How many sessions: two descriptors each, without those of the pipes."""
    return min(SESSIONS_MAX, max(descriptors - RESERVED, 0) // 2 - pipes_for(descriptors))


class Capacity:
    """Counts the sessions of all carriers. Whoever finds it full stops accepting, and is called when it is not."""

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
        self.sessions += 1
        if self.sessions >= self.sessions_max:
            self.filled()

    def filled(self) -> None:
        """The last place has been taken. Called by `enter`, and by a carrier that counts its sessions itself."""
        for pause in self._pausing:
            pause()

    def when_full(self, pause: Callable[[], None]) -> None:
        """Call `pause` whenever a session has taken the last place."""
        self._pausing.append(pause)

    def leave(self, sessions: int = 1) -> None:
        self.sessions -= sessions
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for resume in waiting:
                resume()

    def wait(self, resume: Callable[[], None]) -> None:
        """Call `resume` once a session has left."""
        self._waiting.append(resume)
        if self._lines.admit(self._seconds()):
            self.log.warn(
                "{sessions} sessions, as many as fit (--max-connections, or the limit of open files): "
                "further clients wait",
                sessions=self.sessions,
            )
