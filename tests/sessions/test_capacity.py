"""How many sessions a process may have, and which carriers wait for one to end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from rproxy.sessions.capacity import (
    PIPES_MAX,
    RESERVED,
    SESSIONS_MAX,
    Capacity,
    pipes_for,
    sessions_for,
)
from rproxy.sessions.service import Service
from tests.fakes import logged, pool_with, texts


@pytest.mark.parametrize(
    ("descriptors", "pipes", "sessions"),
    [
        (0, 0, 0),
        (RESERVED, 0, 0),
        (RESERVED + 1, 0, 0),
        (RESERVED + 2, 0, 1),
        (256, 13, 95),
        (1024, 61, 431),
        (20_000, 128, 9852),
        (4 * SESSIONS_MAX, 128, SESSIONS_MAX),
    ],
)
def test_sessions_and_pipes_share_the_descriptors(descriptors: int, pipes: int, sessions: int) -> None:
    assert (pipes_for(descriptors), sessions_for(descriptors)) == (pipes, sessions)


@given(descriptors=st.integers(0, 10_000_000))
def test_sessions_and_pipes_together_never_need_more_descriptors_than_there_are(descriptors: int) -> None:
    pipes, sessions = pipes_for(descriptors), sessions_for(descriptors)
    assert 0 <= pipes <= PIPES_MAX
    assert 0 <= sessions <= SESSIONS_MAX
    assert 2 * (pipes + sessions) <= max(descriptors - RESERVED, 0)


class Bench:
    def __init__(self, sessions_max: int) -> None:
        self.clock = Clock()
        self.capacity = Capacity(sessions_max, self.clock.seconds)
        self.resumed: list[str] = []

    def fill(self) -> None:
        while not self.capacity.full:
            self.capacity.enter()

    def wait(self, who: str) -> None:
        self.capacity.wait(lambda: self.resumed.append(who))


def test_capacity_is_full_with_sessions_max_sessions() -> None:
    capacity = Bench(2).capacity
    assert not capacity.full
    capacity.enter()
    assert not capacity.full
    capacity.enter()
    assert (capacity.full, capacity.sessions) == (True, 2)
    capacity.leave()
    assert (capacity.full, capacity.sessions) == (False, 1)


def test_a_waiting_carrier_is_called_once_when_a_session_has_ended() -> None:
    bench = Bench(2)
    bench.fill()
    with logged():
        bench.wait("one")
        bench.wait("two")
    assert bench.resumed == []
    bench.capacity.leave()
    bench.capacity.leave()
    assert bench.resumed == ["one", "two"]


def test_there_is_capacity_already_when_waiting_carriers_are_called() -> None:
    bench = Bench(1)
    bench.fill()
    seen: list[bool] = []
    with logged():
        bench.capacity.wait(lambda: seen.append(bench.capacity.full))
    bench.capacity.leave()
    assert seen == [False]


def test_a_carrier_that_fills_the_capacity_and_waits_again_is_called_at_the_next_end() -> None:
    bench = Bench(1)

    def enter_and_wait() -> None:
        bench.resumed.append("again")
        bench.capacity.enter()
        bench.capacity.wait(enter_and_wait)

    bench.fill()
    with logged():
        bench.capacity.wait(enter_and_wait)
        bench.capacity.leave()
        bench.capacity.leave()
    assert bench.resumed == ["again", "again"]


def test_all_carriers_are_paused_when_the_capacity_becomes_full() -> None:
    bench = Bench(2)
    called: list[str] = []
    bench.capacity.when_full(lambda: called.append("one"))
    bench.capacity.when_full(lambda: called.append("two"))
    bench.capacity.enter()
    assert called == []
    bench.capacity.enter()
    assert called == ["one", "two"]
    bench.capacity.leave()
    bench.capacity.enter()
    assert called == ["one", "two"] * 2


def test_full_capacity_is_one_warning_in_ten_seconds() -> None:
    bench = Bench(1)
    bench.fill()
    called: list[int] = []
    with logged() as events:
        for seconds in (0, 0.1, 9.8, 0.2, 9.8, 0.3):
            bench.clock.advance(seconds)
            bench.wait("it")
            called.append(len(events))
    assert called == [1, 1, 1, 2, 2, 3]
    assert {event["log_level"] for event in events} == {LogLevel.warn}
    assert texts(events)[0] == (
        "1 sessions, as many as fit (--max-connections, or the limit of open files): further clients wait"
    )


def test_who_asks_twice_is_called_once() -> None:
    bench, called = Bench(1), list[str]()

    def call() -> None:
        called.append("it")

    for _ in range(2):
        bench.capacity.when_full(call)
    bench.fill()
    assert called == ["it"]
    with logged():
        for _ in range(2):
            bench.capacity.wait(call)
    bench.capacity.leave()
    assert called == ["it"] * 2


def test_a_higher_limit_is_capacity_for_those_who_wait() -> None:
    bench = Bench(1)
    bench.fill()
    with logged():
        bench.wait("one")
    bench.capacity.resize(1)
    assert bench.resumed == []
    bench.capacity.resize(2)
    assert (bench.resumed, bench.capacity.full) == (["one"], False)


def test_a_lower_limit_pauses_and_resumes_once_enough_have_ended() -> None:
    bench = Bench(3)
    paused: list[str] = []
    bench.capacity.when_full(lambda: paused.append("it"))
    bench.capacity.enter()
    bench.capacity.enter()
    bench.capacity.resize(1)
    assert (paused, bench.capacity.full) == (["it"], True)
    bench.capacity.leave()
    assert bench.capacity.full
    bench.capacity.leave()
    assert not bench.capacity.full


def test_the_log_says_whose_limit_it_is() -> None:
    capacity = Service(pool_with(1), Clock(), name="web").capacity
    capacity.resize(1)
    capacity.enter()
    with logged() as events:
        capacity.wait(lambda: None)
    assert texts(events) == ["1 sessions, as many as the service web may have (max-connections): further clients wait"]
