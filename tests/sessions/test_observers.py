"""What observers of sessions are called with, and what an exception of one costs."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel

from rproxy.pool.backend import Backend
from rproxy.sessions.endings import Ending
from rproxy.sessions.link import Link
from rproxy.sessions.observers import Observers
from rproxy.sessions.record import SessionRecord
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.timing.rate_limit import LOG_EVERY_S
from tests.fakes import FakeLink, logged, pool_with, texts
from tests.sessions.opening import taken


class Heard:
    def __init__(self) -> None:
        self.ended: list[Ending] = []
        self.scores: list[tuple[Backend | None, float | None]] = []
        self.choices: list[str | None] = []
        self.choosings = 0
        self.redispatches: list[tuple[str, str]] = []

    def session_ended(self, record: SessionRecord) -> None:
        self.ended.append(record.ending)
        self.scores.append((record.backend, record.score))

    def choosing(self, link: Link) -> None:
        assert self.choosings == len(self.choices)
        self.choosings += 1

    def chosen(self, link: Link, backend: Backend | None) -> None:
        assert self.choosings == len(self.choices) + 1
        self.choices.append(None if backend is None else backend.address)

    def redispatched(self, failed: Backend, backend: Backend) -> None:
        self.redispatches.append((failed.address, backend.address))


class Failing:
    def session_ended(self, record: SessionRecord) -> None:
        raise OSError("no space left on device")

    def choosing(self, link: Link) -> None:
        raise OSError("no space left on device")

    def chosen(self, link: Link, backend: Backend | None) -> None:
        raise OSError("no space left on device")

    def redispatched(self, failed: Backend, backend: Backend) -> None:
        raise OSError("no space left on device")


def service_with(clock: Clock, *observers: Heard | Failing) -> Service:
    observing = Observers(clock.seconds, sessions=observers, choices=observers, redispatches=observers)
    return Service(pool_with(2), clock, observers=observing)


def serve(service: Service) -> Session:
    """A session whose first connect fails."""
    session = Session(service, FakeLink())
    taken(session)
    session.connect_failed()
    taken(session)
    session.connected()
    session.ended(Ending.CLOSED)
    return session


def test_every_choice_redispatch_and_end_is_observed() -> None:
    heard = Heard()
    serve(service_with(Clock(), heard))
    assert heard.choices == ["10.0.0.1", "10.0.0.2"]
    assert heard.redispatches == [("10.0.0.1", "10.0.0.2")]
    assert heard.ended == [Ending.CLOSED]


def test_a_choice_of_no_back_end_is_observed_and_is_no_redispatch() -> None:
    heard = Heard()
    session = Session(service_with(Clock(), heard), FakeLink())
    for _ in range(2):
        taken(session)
        session.connect_failed()
    assert session.choose_backend() is None
    session.give_up()
    assert heard.choices == ["10.0.0.1", "10.0.0.2", None]
    assert len(heard.redispatches) == 1
    assert heard.ended == [Ending.UNREACHABLE]


def test_a_record_has_the_score_of_the_back_end_that_it_names_and_none_without_one() -> None:
    heard = Heard()
    service = service_with(Clock(), heard)
    service.pool.notes_values = service.notes_choices = True
    served = serve(service)
    session = Session(service, FakeLink())
    for _ in range(2):
        taken(session)
        session.connect_failed()
    session.give_up()
    (backend, score), nobody = heard.scores
    assert backend is not None
    assert score == served.score is not None
    assert nobody == (None, None)


def test_an_observer_that_fails_costs_neither_the_session_nor_the_others_anything() -> None:
    clock, heard = Clock(), Heard()
    service = service_with(clock, Failing(), heard, Failing())
    with logged():
        session = serve(service)
    assert (len(heard.choices), len(heard.redispatches), heard.ended) == (2, 1, [Ending.CLOSED])
    assert session.ending is Ending.CLOSED
    assert [backend.connections for backend in service.pool] == [0, 0]


def test_its_failures_are_logged_with_their_cause_and_seldom() -> None:
    clock = Clock()
    service = service_with(clock, Failing())
    with logged() as events:
        for _ in range(3):
            Session(service, FakeLink()).ended(Ending.CLIENT_GONE)
        clock.advance(LOG_EVERY_S)
        Session(service, FakeLink()).ended(Ending.CLIENT_GONE)
    assert [event["log_level"] for event in events] == [LogLevel.critical] * 2
    assert texts(events)[0].startswith("an observer of sessions failed; ")
    assert "no space left" in str(events[0]["log_failure"].value)
