"""The record of a session that has ended, for observers."""

from __future__ import annotations

from typing import NamedTuple

from rproxy.pool.backend import Backend
from rproxy.sessions.endings import Ending
from rproxy.sessions.link import Link


class SessionRecord(NamedTuple):
    """One session that has ended. A named tuple, because one is built for every session: attrs takes 1 µs more.

    Times are in seconds; points in time are on the service's clock, which is monotonic.
    """

    service: str
    """Name of the service."""
    listener: str
    """Name of the listener that accepted the client."""
    link: Link
    """For `client` only; the connections are being closed."""
    backend: Backend | None
    """The one that was chosen last; None if none was, or the connects to all failed."""
    tries: int
    """Back-ends chosen, including those to which the connect failed."""
    started_at: float
    """When the client was accepted, or its PROXY header or TLS handshake was complete."""
    queue_s: float
    """Spent waiting for a back-end to become eligible."""
    connect_s: float | None
    """From the end of that wait to the established connection, failed attempts included; None without a connection."""
    duration_s: float
    """From `started_at` to the end."""
    up: int
    """Bytes from the client to the back-end."""
    down: int
    """Bytes from the back-end to the client."""
    ending: Ending
    id: int = 0
    """`Session.id`."""
    score: float | None = None
    """`Session.score`, of `backend`."""
    report_age_s: float | None = None
    """`Session.report_age_s`, of `backend`."""

    @property
    def client(self) -> str:
        """The client's address, see `Link.client_address`. Formatted only when read."""
        return self.link.client_address()
