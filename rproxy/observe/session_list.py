"""`/api/sessions`: who is connected to what, for how long, and how much has been carried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from operator import attrgetter
from typing import Any, Final

import attrs

from rproxy.net.addresses import Network
from rproxy.observe.json_list import in_parts, json_list
from rproxy.observe.parameters import Parameters, backend, network, service, whole
from rproxy.sessions.endings import Phase
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Slices

PARAMETERS: Final = ("client", "backend", "service", "limit")
LIMIT: Final = 1000
LIMIT_MAX: Final = 5000
ROWS: Final = 50
"""Sessions rendered in one go."""
_STATES: Final = {
    Phase.ACCEPTED: "accepted",
    Phase.WAITING: "waiting",
    Phase.CONNECTING: "connecting",
    Phase.CONNECTED: "connected",
}


@attrs.frozen
class Wanted:
    """Which sessions are asked for; None for any."""

    client: Network | None = None
    backend: str | None = None
    service: str | None = None

    def has(self, session: Session) -> bool:
        """Whether the session is one of them."""
        if self.service is not None and session.service.name != self.service:
            return False
        if self.backend is not None and (session.backend is None or session.backend.name != self.backend):
            return False
        return self.client is None or self._has_client(session, self.client)

    def _has_client(self, session: Session, clients: Network) -> bool:
        client = session.link.client()
        return client is not None and ip_address(client[0].partition("%")[0]) in clients


class SessionList:
    """`slices` lists the sessions of all services, whose names `names` returns; `wall` returns Unix time in s."""

    def __init__(self, slices: Slices, names: Callable[[], Sequence[str]], wall: Callable[[], float]) -> None:
        self._slices = slices
        self._names = names
        self._wall = wall

    def rendered(self, parameters: Parameters) -> Iterator[bytes]:
        """The document as JSON, in pieces that take a fraction of a millisecond each, some of them empty.

        Those that have begun first are listed. Raises `BadParameter` before the first piece.
        """
        wanted = Wanted(network(parameters, "client"), backend(parameters), service(parameters, self._names()))
        limit = whole(parameters, "limit", LIMIT, 0, LIMIT_MAX)
        found: list[Session] = []
        total = 0
        for sessions in self._slices():
            those = [session for session in sessions if session.ending is None and wanted.has(session)]
            total += len(those)
            found += those
            if len(found) > 2 * limit + ROWS:
                found = _longest(found, limit)
            yield b""
        shown = 0

        def rows(some: Sequence[Session]) -> list[dict[str, Any]]:
            nonlocal shown
            present = [self._row(session) for session in some if session.ending is None]
            shown += len(present)
            return present

        parts = in_parts(_longest(found, limit), ROWS)
        yield from json_list("sessions", parts, rows, lambda: {"total": total, "shown": shown})

    def _row(self, session: Session) -> dict[str, Any]:
        age = session.service.seconds() - session.started_at
        up, down = session.link.carried() if session.is_connected else (0, 0)  # read, but not passed on
        return {
            "id": session.id,
            "service": session.service.name,
            "listener": session.listener,
            "client": session.link.client_address(),
            "backend": None if session.backend is None else session.backend.name,
            "state": "half-closed" if session.half_closed else _STATES[session.phase],
            "started": round(self._wall() - age, 3),
            "age": round(age, 3),
            "up": up,
            "down": down,
        }


def _longest(sessions: list[Session], limit: int) -> list[Session]:
    """The `limit` oldest ones: ids count up."""
    return sorted(sessions, key=attrgetter("id"))[:limit]
