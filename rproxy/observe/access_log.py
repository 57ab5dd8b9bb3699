"""The access log: one line for each session that has ended, in one of three formats.

A session costs its end one append to a list. Lines are made `BATCH` at a time, and handed on every `FLUSH_S` seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.observe.access_formats import Lines
from rproxy.sessions.record import SessionRecord

BATCH: Final = 32
"""Records that are kept as such: each keeps the objects of its session alive."""
FLUSH_S: Final = 0.1
"""How long a line may wait for others."""


class AccessLog:
    """A `SessionObserver` of all services. `write` gets the lines, without their ends, in the order of the sessions.

    `wall` returns Unix time in s, and `lines` makes a line of each record.
    """

    def __init__(
        self, clock: IReactorTime, wall: Callable[[], float], lines: Lines, write: Callable[[list[str]], None]
    ) -> None:
        self._clock = clock
        self._wall = wall
        self.lines = lines
        """May be replaced, after `flush`."""
        self._write = write
        self._records: list[SessionRecord] = []
        self._made: list[str] = []
        self._due: IDelayedCall | None = None

    def session_ended(self, record: SessionRecord) -> None:
        """As `SessionObserver`."""
        records = self._records
        records.append(record)
        if len(records) >= BATCH:
            self._make()
        if self._due is None:
            self._due = self._clock.callLater(FLUSH_S, self.flush)

    def _make(self) -> None:
        records, self._records = self._records, []
        self._made += self.lines(records, self._wall() - self._clock.seconds())

    def flush(self) -> None:
        """Hand on the lines of all sessions that have ended."""
        if self._due is not None:
            due, self._due = self._due, None
            if due.active():
                due.cancel()
        if self._records:
            self._make()
        if self._made:
            made, self._made = self._made, []
            self._write(made)
