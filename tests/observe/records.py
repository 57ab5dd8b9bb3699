"""Records of sessions that have ended, for the tests of what is written of them."""

from __future__ import annotations

from typing import Any

from rproxy.sessions.endings import Ending
from rproxy.sessions.record import SessionRecord
from tests.fakes import FakeLink, pool_of, registered


def record(client: str = "192.0.2.7:50312", backend: str | None = "10.1.1.2", **fields: Any) -> SessionRecord:
    """One of 44.1 ms, which was closed at 1000.25 s of the service's clock."""
    given = SessionRecord(
        service="web",
        listener="0.0.0.0:80",
        link=FakeLink(client),
        backend=None if backend is None else registered(pool_of(), backend),
        tries=1,
        started_at=1000.2059,
        queue_s=0.0,
        connect_s=0.000123,
        duration_s=0.0441,
        up=312,
        down=10240,
        ending=Ending.CLOSED,
        id=7,
        score=0.3612401,
        report_age_s=0.51,
    )
    return given._replace(**fields)


REFUSED: Any = {
    "backend": None,
    "tries": 0,
    "connect_s": None,
    "score": None,
    "report_age_s": None,
    "up": 0,
    "down": 0,
    "ending": Ending.NO_BACKEND,
}
"""What differs in the record of a client that got no back-end."""
