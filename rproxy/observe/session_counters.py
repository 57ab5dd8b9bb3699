"""Totals over the sessions of a service that have ended."""

from __future__ import annotations

from collections import Counter

from rproxy.pool.backend import Backend
from rproxy.sessions.endings import Ending
from rproxy.sessions.record import SessionRecord


class SessionCounters:
    """A `SessionObserver` and `RedispatchObserver` that counts."""

    def __init__(self) -> None:
        self.endings: Counter[Ending] = Counter()
        self.redispatches = 0
        self.up = 0
        """Bytes that the sessions which have ended carried from clients."""
        self.down = 0
        """The same to clients."""

    def session_ended(self, record: SessionRecord) -> None:
        self.endings[record.ending] += 1
        self.up += record.up
        self.down += record.down

    def redispatched(self, failed: Backend, backend: Backend) -> None:
        self.redispatches += 1
