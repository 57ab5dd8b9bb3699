"""How long a proxy that stops waits for its sessions, and what its log says meanwhile."""

from __future__ import annotations

from twisted.internet.task import Clock

from rproxy.sessions.capacity import Capacity
from rproxy.tap.draining import Draining
from rproxy.timing.rate_limit import LOG_EVERY_S
from tests.fakes import logged, run, texts
from tests.tap.services import ended

TIMEOUT_S = 25.0


class Bench:
    def __init__(self, sessions: int, timeout_s: float = TIMEOUT_S) -> None:
        self.clock = Clock()
        self.capacity = Capacity(1000, self.clock.seconds)
        self.capacity.sessions = sessions
        self.told: list[int] = []
        self.draining = Draining(self.clock, self.capacity, timeout_s, self.told.append)

    def wait(self) -> list[object]:
        self.draining.start()
        return ended(self.draining.wait())


def test_without_a_session_it_is_over_at_once_and_nothing_is_logged() -> None:
    bench = Bench(0)
    with logged() as events:
        over = bench.wait()
    assert (len(over), texts(events), bench.told, bench.clock.getDelayedCalls()) == (1, [], [], [])


def test_how_many_are_left_is_logged_at_once_and_every_ten_seconds_until_they_are_reset() -> None:
    bench = Bench(3)
    with logged() as events:
        over = bench.wait()
        assert texts(events) == ["stopping: 3 session(s) left, which may go on for 25 s"]
        run(bench.clock, LOG_EVERY_S - 1)
        bench.capacity.sessions = 2
        run(bench.clock, 1.1)
        run(bench.clock, LOG_EVERY_S)
        assert over == []
        run(bench.clock, TIMEOUT_S - 2 * LOG_EVERY_S)
    assert texts(events) == [
        "stopping: 3 session(s) left, which may go on for 25 s",
        "stopping: 2 session(s) left, which may go on for 15 s",
        "stopping: 2 session(s) left, which may go on for 5 s",
        "stopping: 2 session(s) left, which are reset",
    ]
    assert (len(over), bench.told, bench.clock.getDelayedCalls()) == (1, [3, 2, 2], [])


def test_it_is_over_with_the_last_session() -> None:
    bench = Bench(1)
    with logged() as events:
        over = bench.wait()
        run(bench.clock, 5)
        bench.capacity.sessions = 0
        run(bench.clock, 0.1)
    assert len(over) == 1
    assert texts(events)[1:] == ["stopping: no session is left"]


def test_sessions_without_time_are_reset_at_once() -> None:
    bench = Bench(4, 0.0)
    with logged() as events:
        over = bench.wait()
    assert (len(over), texts(events)) == (1, ["stopping: 4 session(s) left, which are reset"])


def test_a_second_signal_ends_the_wait_and_one_that_has_not_begun() -> None:
    bench = Bench(1)
    over = bench.wait()
    bench.draining.end()
    assert len(over) == 1
    bench.draining.end()
    early = Bench(1)
    early.draining.end()
    assert len(early.wait()) == 1


def test_time_spent_before_the_wait_counts() -> None:
    """Closing the listeners may take a while."""
    bench = Bench(1)
    bench.draining.start()
    run(bench.clock, TIMEOUT_S)
    assert len(ended(bench.draining.wait())) == 1
