"""The phases of a session, and how it ends."""

from __future__ import annotations

from enum import Enum, StrEnum, auto


class Phase(Enum):
    """A session's phase, see the diagram in `session`."""

    ACCEPTED = auto()
    """Without a back-end: accepted, called back by the wait queue, or after a failed connect."""
    WAITING = auto()
    """In the service's wait queue, because no back-end was eligible."""
    CONNECTING = auto()
    CONNECTED = auto()
    ENDED = auto()


class Ending(StrEnum):
    """How a session ended; the value is the name of a counter."""

    CLOSED = "closed"
    """Both sides ended their streams."""
    CLIENT_RESET = "client-reset"
    BACKEND_RESET = "backend-reset"
    CLIENT_GONE = "client-gone"
    """The client gave up before it was connected to a back-end."""
    HANDSHAKE = "handshake"
    """The client's TLS handshake failed, or took too long."""
    DENIED = "denied"
    """The service does not take this client, see `Gate`."""
    UNTRUSTED = "untrusted"
    """The connection should begin with a PROXY header, and does not come from a network that may send one."""
    BAD_HEADER = "bad-header"
    """The connection did not begin with a valid PROXY header."""
    HEADER_TIMEOUT = "header-timeout"
    """The PROXY header was not complete in time."""
    NO_BACKEND = "no-backend"
    """No back-end was eligible."""
    UNREACHABLE = "unreachable"
    """No attempt to connect succeeded."""
    QUEUE_FULL = "queue-full"
    """All back-ends that are up were full, and as many clients waited for them as may."""
    QUEUE_TIMEOUT = "queue-timeout"
    """All back-ends that are up were full for as long as a client may wait."""
    IDLE = "idle"
    HALF_CLOSED = "half-closed"
    """One side had ended its stream, and the other was idle for too long."""
    VANISHED = "vanished"
    """One side stopped acknowledging the data sent to it."""
    BACKEND_DOWN = "backend-down"
    """The back-end went down by silence, and the session made no progress."""
    KILLED = "killed"
    """An operator ended the session."""
    SHED = "shed"
    """An operator moves clients away from the back-end, little by little."""
    STOPPED = "stopped"
    """The proxy itself ended the session."""

    __hash__ = str.__hash__  # Enum's own is Python code
