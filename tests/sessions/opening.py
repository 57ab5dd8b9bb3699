"""Sessions on plain memory: no transport, and a clock that the test moves."""

from __future__ import annotations

from twisted.internet.task import Clock

from rproxy.pool.backend import Backend
from rproxy.pool.events import Transition
from rproxy.pool.pool import Pool
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from tests.fakes import CountingPolicy, FakeLink, guarded, table_with


class Bench:
    def __init__(self, up: int = 3, *, trace: bool = False, saturation: float | None = None) -> None:
        self.clock = Clock()
        self.table = table_with(up)
        self.policy = CountingPolicy()
        self.announced: list[Transition] = []
        self.service = Service(
            Pool(self.table, guarded(self.policy)),
            self.clock,
            saturation=saturation,
            publish=self.announced.extend,
            trace=trace,
        )

    def open(self) -> Session:
        return Session(self.service, FakeLink("the client"))

    def connected(self) -> Session:
        session = self.open()
        assert session.choose_backend() is not None
        session.connected()
        return session

    def told(self, event: str) -> int:
        return self.policy.told[event].total()

    @property
    def counts(self) -> list[tuple[int, int, int]]:
        return [(each.pending, each.established, each.total) for each in self.table]


def taken(session: Session) -> Backend:
    backend = session.choose_backend()
    assert backend is not None
    return backend
