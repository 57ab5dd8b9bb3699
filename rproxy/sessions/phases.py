"""The phases of a session."""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    """A session's phase, see the diagram in `session`."""

    ACCEPTED = auto()
    """Without a back-end: accepted, called back by the wait queue, or after a failed connect."""
    WAITING = auto()
    """In the service's wait queue, because no back-end was eligible."""
    CONNECTING = auto()
    CONNECTED = auto()
    ENDED = auto()
