"""Sessions on plain memory: no transport, and a clock that the test moves."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from rproxy.observe.refused_clients import RefusedClientsLog
from rproxy.observe.scores import ReportScore
from rproxy.observe.session_counters import SessionCounters
from rproxy.observe.trace import SessionTrace
from rproxy.pool.backend import Backend
from rproxy.pool.events import EligibilityChanged, Events, Transitioned
from rproxy.sessions.observers import Observers
from rproxy.sessions.record import SessionRecord
from rproxy.sessions.service import DEFAULT_TERMS, Service, ServiceTerms
from rproxy.sessions.session import Session
from tests.fakes import CountingPolicy, FakeLink, pool_with


class Bench:
    def __init__(
        self,
        up: int = 3,
        *,
        trace: bool = False,
        terms: ServiceTerms = DEFAULT_TERMS,
        policy: CountingPolicy | None = None,
    ) -> None:
        self.clock = Clock()
        self.policy = CountingPolicy() if policy is None else policy
        self.pool = pool = pool_with(up, self.policy)
        self.announced: list[Transitioned] = []
        self.counters = SessionCounters()
        self.refused = RefusedClientsLog(self.clock, pool)
        self.records: list[SessionRecord] = []
        observers: list[Any] = [self.counters, self.refused, self]
        traces = [SessionTrace(pool, ReportScore(), self.clock.seconds)] if trace else []
        self.service = Service(
            pool,
            self.clock,
            terms,
            observers=Observers(
                self.clock.seconds, sessions=[*observers, *traces], choices=traces, redispatches=[self.counters]
            ),
            publish=self._publish,
        )

    def _publish(self, events: Events) -> None:
        for event in events:
            if isinstance(event, Transitioned):
                self.announced.append(event)
            elif isinstance(event, EligibilityChanged):
                self.service.wait_queue.eligibility_changed(event)

    def session_ended(self, record: SessionRecord) -> None:
        self.records.append(record)

    def stop(self) -> None:
        self.service.stop()
        self.refused.stop()

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
        return [(each.counts.pending, each.counts.established, each.counts.total) for each in self.pool]


def taken(session: Session) -> Backend:
    backend = session.choose_backend()
    assert backend is not None
    return backend
