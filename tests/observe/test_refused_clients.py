"""When and how often the log warns of clients that were turned away."""

from __future__ import annotations

import pytest
from twisted.logger import LogLevel

from tests.fakes import logged, registered, run, texts
from tests.sessions.opening import Bench


def turn_away(bench: Bench, clients: int) -> None:
    for _ in range(clients):
        session = bench.open()
        while session.choose_backend() is not None:
            session.connect_failed()
        session.give_up()


def test_refused_clients_are_one_warning_in_ten_seconds_and_the_last_has_the_total() -> None:
    bench = Bench(up=0)
    with logged() as events:
        turn_away(bench, 50)
        bench.clock.advance(9.9)
        turn_away(bench, 50)
        assert [event["count"] for event in events] == [1]
        bench.clock.advance(0.1)
        assert [event["count"] for event in events] == [1, 100]
        turn_away(bench, 7)
        run(bench.clock, 100)
        assert [event["count"] for event in events] == [1, 100, 107]
        run(bench.clock, 100)
        turn_away(bench, 2)
        assert [event["count"] for event in events] == [1, 100, 107, 1]
        bench.stop()
    assert [event["count"] for event in events] == [1, 100, 107, 1, 2]
    assert {event["log_level"] for event in events} == {LogLevel.warn}
    assert texts(events)[2].startswith("107 client(s) turned away in 20 s: no back-end is up; ")
    assert bench.clock.getDelayedCalls() == []


def test_an_episode_of_one_client_is_one_line() -> None:
    bench = Bench(up=0)
    with logged() as events:
        turn_away(bench, 1)
        run(bench.clock, 100)
    assert len(events) == 1
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("up", "line"),
    [
        (0, "1 client(s) turned away: no back-end is up; 0 of 1 back-ends may be used"),
        (2, "1 client(s) turned away: no back-end could be connected to; 2 of 3 back-ends may be used"),
    ],
)
def test_the_warning_says_why_and_how_many_backends_there_are(up: int, line: str) -> None:
    bench = Bench(up)
    registered(bench.pool, "10.0.0.99")
    with logged() as events:
        turn_away(bench, 1)
    assert texts(events) == [line]
