"""The record that observers get when a session ends."""

from __future__ import annotations

import pytest

from rproxy.pool.states import Administration
from rproxy.sessions.endings import Ending
from rproxy.sessions.record import SessionRecord
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.session import Session
from tests.fakes import FakeLink, run
from tests.sessions.opening import Bench, taken


def the_record(bench: Bench) -> SessionRecord:
    (record,) = bench.records
    return record


def test_a_session_that_was_served_says_by_whom_how_long_and_how_much() -> None:
    bench = Bench()
    bench.clock.advance(100)
    session = Session(bench.service, FakeLink("192.0.2.7:1234"), "80")
    backend = taken(session)
    bench.clock.advance(0.25)
    session.connected()
    session.up, session.down = 10, 2000
    bench.clock.advance(4)
    session.ended(Ending.CLIENT_RESET)
    record = the_record(bench)
    assert (record.service, record.listener, record.client) == ("default", "80", "192.0.2.7:1234")
    assert (record.backend, record.tries, record.ending) == (backend, 1, Ending.CLIENT_RESET)
    assert (record.started_at, record.queue_s, record.connect_s, record.duration_s) == (100, 0, 0.25, 4.25)
    assert (record.up, record.down) == (10, 2000)


def test_the_time_to_connect_includes_the_attempts_that_failed() -> None:
    bench = Bench()
    session = bench.open()
    taken(session)
    bench.clock.advance(2)
    session.connect_failed()
    second = taken(session)
    bench.clock.advance(0.5)
    session.connected()
    session.ended(Ending.CLOSED)
    record = the_record(bench)
    assert (record.backend, record.tries, record.connect_s) == (second, 2, 2.5)


def test_an_early_end_counts_as_an_attempt_and_its_connect_does_not_count() -> None:
    bench = Bench()
    session = bench.connected()
    assert session.try_redispatch(0, reset=True)
    bench.clock.advance(1)
    session.ended(Ending.CLIENT_GONE)
    record = the_record(bench)
    assert (record.backend, record.tries, record.connect_s, record.duration_s) == (None, 1, None, 1)


def test_the_record_of_a_client_that_was_refused_has_no_back_end() -> None:
    bench = Bench(up=0)
    session = bench.open()
    assert session.choose_backend() is None
    session.give_up()
    record = the_record(bench)
    assert (record.backend, record.tries, record.connect_s) == (None, 0, None)
    assert record.ending is Ending.NO_BACKEND


@pytest.mark.parametrize("leaves", [False, True])
def test_the_time_in_the_queue_is_apart_from_the_time_to_connect(leaves: bool) -> None:
    bench = Bench(up=1, terms=ServiceTerms(wait_s=5))
    (backend,) = bench.pool
    bench.pool.administer(backend, Administration.DRAIN, bench.clock.seconds())
    session = bench.open()
    assert session.choose_backend() is None

    def served() -> None:
        taken(session)

    assert session.wait_for_backend(served)
    run(bench.clock, 3)
    if leaves:
        session.ended(Ending.CLIENT_GONE)
        record = the_record(bench)
        assert (record.backend, record.tries) == (None, 0)
        assert record.connect_s is None
        assert bench.service.wait_queue.queue == {}
    else:
        bench.service.publish(bench.pool.administer(backend, Administration.READY, bench.clock.seconds()))
        run(bench.clock, 0)
        bench.clock.advance(0.5)
        session.connected()
        session.ended(Ending.CLOSED)
        record = the_record(bench)
        assert (record.backend, record.connect_s) == (backend, 0.5)
    assert record.queue_s == pytest.approx(3, abs=0.2)
    assert record.duration_s == record.queue_s + (record.connect_s or 0)


def test_a_tls_clients_time_starts_with_its_handshake_complete() -> None:
    bench = Bench()
    session = bench.open()
    bench.clock.advance(7)
    session.handshake_completed()
    taken(session)
    session.connected()
    session.ended(Ending.CLOSED)
    record = the_record(bench)
    assert (record.started_at, record.connect_s, record.duration_s) == (7, 0, 0)


def test_a_session_has_one_record_and_its_lease_is_returned_before() -> None:
    bench = Bench()
    leases: list[list[tuple[int, int, int]]] = []
    bench.session_ended = lambda record: leases.append(bench.counts)  # type: ignore[method-assign]
    session = bench.connected()
    session.ended(Ending.CLOSED)
    session.ended(Ending.STOPPED)
    assert leases == [[(0, 0, 1), (0, 0, 0), (0, 0, 0)]]
