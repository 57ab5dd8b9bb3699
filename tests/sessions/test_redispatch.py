"""Which early ends of a back-end's connection are failed connects, and what becomes of the client."""

from __future__ import annotations

import pytest

from rproxy.pool.states import State
from rproxy.sessions.endings import Ending
from rproxy.sessions.redispatch import EARLY_END_S, Redispatch
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.session import Session
from tests.sessions.opening import Bench, taken


def early(session: Session, *, sent: int = 0, reset: bool = True) -> bool:
    return session.try_redispatch(sent, reset=reset)


def test_an_end_before_any_byte_is_a_failed_connect_and_another_one_is_tried() -> None:
    bench = Bench()
    session = bench.connected()
    assert early(session)
    assert (session.is_connected, session.backend) == (False, None)
    assert bench.counts == [(0, 0, 1), (0, 0, 0), (0, 0, 0)]
    assert taken(session).address == "10.0.0.2"
    assert (bench.told("failed"), bench.counters.redispatches) == (1, 1)


def test_three_in_a_row_take_it_down_although_each_connect_succeeded() -> None:
    bench = Bench()
    for _ in range(3):
        session = bench.connected()
        assert early(session)
        session.ended(Ending.CLIENT_GONE)
    assert next(iter(bench.pool)).state is State.DOWN


@pytest.mark.parametrize("down", [0, 1])
def test_only_a_session_that_got_through_starts_the_count_anew(down: int) -> None:
    bench = Bench()
    for _ in range(2):
        assert early(bench.connected())
    session = bench.connected()
    session.down = down
    session.ended(Ending.CLOSED)
    early(bench.connected())
    assert (next(iter(bench.pool)).state is State.DOWN) is not bool(down)


def test_a_session_that_lasts_starts_the_count_anew() -> None:
    bench = Bench()
    for _ in range(2):
        assert early(bench.connected())
    bench.connected().settled()
    early(bench.connected())
    assert next(iter(bench.pool)).state is State.UP


@pytest.mark.parametrize(
    "what", ["late", "lost", "an answer", "a port check", "off", "no other", "sent, and only the unsent may"]
)
def test_otherwise_the_client_gets_the_end(what: str) -> None:
    redispatch = {"off": Redispatch.OFF, "sent, and only the unsent may": Redispatch.UNSENT}.get(what, Redispatch.ALL)
    bench = Bench(1 if what == "no other" else 3, terms=ServiceTerms(redispatch=redispatch))
    session = bench.connected()
    sent = 0
    if what == "late":
        bench.clock.advance(EARLY_END_S + 0.01)
    elif what == "lost":
        sent, session.early_data = 7, b"123456"
    elif what == "an answer":
        sent, session.early_data = 3, b"abc"
        session.half_close()
    elif what == "a port check":
        session.half_close()
    elif what.startswith("sent"):
        sent, session.early_data = 3, b"abc"
    assert not early(session, sent=sent, reset=what != "an answer")
    assert session.is_connected
    assert bench.told("failed") == what.startswith("sent"), "evidence all the same"
    session.ended(Ending.BACKEND_RESET)
    assert bench.counters.endings == {Ending.BACKEND_RESET: 1}


def test_after_three_attempts_the_client_gets_the_end_which_counts_against_the_third_back_end() -> None:
    bench = Bench(4)
    session = bench.connected()
    for _ in range(2):
        assert early(session)
        taken(session)
        session.connected()
    assert not early(session)
    assert (session.is_connected, bench.told("failed")) == (True, 3)


def test_where_services_never_answer_a_clean_end_after_the_clients_starts_the_count_anew() -> None:
    bench = Bench()
    for _ in range(5):
        assert early(bench.connected())
        session = bench.connected()
        session.half_close()
        assert not early(session, reset=False)
        session.ended(Ending.CLOSED)
    assert next(iter(bench.pool)).state is State.UP
