"""Few lines, the last of which tells how it is; on a clock of its own."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from twisted.internet.task import Clock

from rproxy.timing.rate_limit import RateLimit
from rproxy.timing.throttle import WAITING_MAX, Throttle
from tests.fakes import logged, run

EACH_S = 10.0


class Bench:
    def __init__(self, burst: int = 1, in_all: RateLimit | None = None) -> None:
        self.clock = Clock()
        self.throttle = Throttle(self.clock, RateLimit(1 / EACH_S, burst), in_all)
        self.said: list[tuple[float, Hashable, object, int]] = []

    def say(self, subject: Hashable, what: object = None) -> bool:
        return self.throttle.say(
            subject, lambda times: self.said.append((round(self.clock.seconds(), 6), subject, what, times))
        )


def test_the_first_is_said_at_once_and_leaves_no_timer() -> None:
    bench = Bench()
    bench.say("a", 1)
    assert bench.said == [(0, "a", 1, 1)]
    assert bench.clock.getDelayedCalls() == []


def test_of_what_follows_the_newest_is_said_when_the_time_is_over_with_the_number() -> None:
    bench = Bench()
    for number in range(5):
        bench.say("a", number)
        run(bench.clock, 1)
    assert bench.said == [(0, "a", 0, 1)]
    run(bench.clock, 100)
    assert bench.said[1:] == [(10, "a", 4, 4)]
    assert bench.clock.getDelayedCalls() == []


def test_what_goes_on_and_on_is_said_each_time_it_may() -> None:
    bench = Bench()
    for number in range(600):
        bench.say("a", number)
        run(bench.clock, 0.1)
    assert [at for at, *_ in bench.said] == pytest.approx([0, 10, 20, 30, 40, 50, 60], abs=0.2)
    assert sum(times for *_, times in bench.said) == pytest.approx(600, abs=2)


def test_subjects_do_not_wait_for_each_other() -> None:
    bench = Bench()
    bench.say("a")
    run(bench.clock, 5)
    bench.say("b")
    bench.say("a")
    bench.say("b")
    run(bench.clock, 20)
    assert [(at, subject) for at, subject, *_ in bench.said] == [(0, "a"), (5, "b"), (10, "a"), (15, "b")]


def test_a_burst_is_said_one_by_one() -> None:
    bench = Bench(burst=3)
    for number in range(5):
        bench.say("a", number)
    assert [what for _, _, what, _ in bench.said] == [0, 1, 2]
    run(bench.clock, 60)
    assert bench.said[3:] == [(10, "a", 4, 2)]


def test_the_limit_in_all_holds_and_nobody_is_left_out() -> None:
    bench = Bench(in_all=RateLimit(1.0, 2))
    for number in range(10):
        bench.say(number)
    assert len(bench.said) == 2
    run(bench.clock, 4.5)
    assert len(bench.said) == 6
    run(bench.clock, 60)
    assert [subject for _, subject, _, _ in bench.said] == list(range(10))
    assert bench.clock.getDelayedCalls() == []


def test_what_waits_is_bounded() -> None:
    bench = Bench(in_all=RateLimit(1e-3))
    assert bench.say("first")
    assert all(bench.say(number) for number in range(WAITING_MAX))
    assert not bench.say("one more")
    assert bench.say(0)


def test_one_that_fails_to_be_said_keeps_nobody_from_being_said() -> None:
    bench = Bench()
    bench.say("a")
    bench.say("b")
    bench.say("a")

    def fail(times: int) -> None:
        raise ValueError(times)

    bench.throttle.say("a", fail)
    bench.say("b")
    with logged() as events:
        run(bench.clock, 20)
    assert [event["log_failure"].type for event in events] == [ValueError]
    assert [subject for _, subject, *_ in bench.said] == ["a", "b", "b"]


def test_a_subject_is_quiet_when_its_next_line_would_be_written_at_once() -> None:
    bench = Bench()
    assert bench.throttle.is_quiet("a")
    bench.say("a", 1)
    assert (bench.throttle.is_quiet("a"), bench.throttle.is_quiet("b")) == (False, True)
    bench.say("a", 2)
    run(bench.clock, 9.9)
    bench.clock.rightNow = 10.5  # its line may be written, and waits for the timer
    assert not bench.throttle.is_quiet("a")
    run(bench.clock, 9.9)
    assert bench.said[1:] == [(10.5, "a", 2, 1)]
    assert not bench.throttle.is_quiet("a")
    run(bench.clock, 0.2)
    assert bench.throttle.is_quiet("a")


def test_a_flush_writes_what_waits_at_once_and_that_only() -> None:
    bench = Bench()
    for number in range(3):
        bench.say("a", number)
        bench.say("b", number)
    run(bench.clock, 1)
    bench.throttle.flush()
    bench.throttle.flush()
    assert bench.said[2:] == [(1, "a", 2, 2), (1, "b", 2, 2)]
    bench.throttle.stop()
    assert bench.clock.getDelayedCalls() == []


def test_a_stop_ends_the_timer_and_may_come_twice() -> None:
    bench = Bench()
    for _ in range(2):
        bench.say("a")
    for _ in range(2):
        bench.throttle.stop()
    assert bench.clock.getDelayedCalls() == []
