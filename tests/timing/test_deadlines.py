"""Many timeouts from one timer, on a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from rproxy.timing.deadlines import TICK_S, Deadlines
from tests.fakes import run

ROUNDING_S = 1e-6
LATE_MAX_S = TICK_S + ROUNDING_S
"""The wheel promises one tick at most."""


class Bench:
    """Deadlines, and when each owner's was called."""

    def __init__(self, start: float = 0.0) -> None:
        self.clock = Clock()
        self.clock.rightNow = start
        self.deadlines = Deadlines(self.clock)
        self.fired: list[tuple[str, float]] = []

    def arm(self, owner: str, delay_s: float) -> None:
        self.deadlines.arm(owner, delay_s, lambda: self.fired.append((owner, self.clock.seconds())))

    def fired_at(self, owner: str) -> list[float]:
        return [at for name, at in self.fired if name == owner]


@pytest.mark.parametrize("start", [0.0, 0.05, 0.0999, 1234.56, 8_000_000.07])
@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.05, 0.1, 0.15, 2.0, 4.8, 30.0])
def test_a_deadline_is_called_once_never_early_and_at_most_a_tick_late(start: float, delay_s: float) -> None:
    bench = Bench(start)
    bench.arm("it", delay_s)
    run(bench.clock, delay_s + 10)
    (at,) = bench.fired_at("it")
    assert start + delay_s - ROUNDING_S <= at <= start + delay_s + LATE_MAX_S


def test_a_deadline_armed_while_others_wait_is_at_most_a_tick_late_too() -> None:
    bench = Bench(0.07)
    bench.arm("first", 60)
    due = {}
    for number in range(200):
        owner, delay_s = str(number), 0.013 * number
        due[owner] = bench.clock.seconds() + delay_s
        bench.arm(owner, delay_s)
        run(bench.clock, 0.017)
    run(bench.clock, 5)
    late = [at - due[owner] for owner, at in bench.fired]
    assert len(late) == 200
    assert min(late) >= -ROUNDING_S
    assert max(late) <= LATE_MAX_S


def test_a_deadline_that_has_passed_already_is_called_at_the_next_tick() -> None:
    bench = Bench(100.0)
    bench.arm("it", -5.0)
    run(bench.clock, 2 * TICK_S)
    assert len(bench.fired) == 1


def test_a_deadline_that_is_dropped_is_not_called() -> None:
    bench = Bench()
    bench.arm("dropped", 1)
    bench.arm("kept", 1)
    run(bench.clock, 0.5)
    bench.deadlines.disarm("dropped")
    run(bench.clock, 5)
    assert [owner for owner, _ in bench.fired] == ["kept"]


def test_dropping_what_is_not_armed_does_nothing() -> None:
    bench = Bench()
    bench.deadlines.disarm("nobody")
    bench.arm("it", 0.1)
    run(bench.clock, 1)
    bench.deadlines.disarm("it")
    assert len(bench.fired) == 1


@pytest.mark.parametrize("second_s", [0.5, 1.0, 1.04, 3.0])
def test_arming_again_replaces_the_deadline(second_s: float) -> None:
    bench = Bench()
    bench.arm("it", 1)
    bench.arm("it", second_s)
    assert len(bench.deadlines) == 1
    run(bench.clock, 10)
    (at,) = bench.fired_at("it")
    assert second_s - ROUNDING_S <= at <= second_s + LATE_MAX_S


def test_a_call_may_arm_its_owner_again() -> None:
    bench = Bench()
    calls: list[float] = []

    def again() -> None:
        calls.append(bench.clock.seconds())
        if len(calls) < 3:
            bench.deadlines.arm("it", 1, again)

    bench.deadlines.arm("it", 1, again)
    run(bench.clock, 10)
    assert calls == pytest.approx([1, 2, 3], abs=3 * 2 * TICK_S)
    assert bench.clock.getDelayedCalls() == []


def test_a_call_may_drop_another_deadline_of_the_same_tick() -> None:
    bench = Bench()
    bench.deadlines.arm("first", 1, lambda: bench.deadlines.disarm("second"))
    bench.arm("second", 1)
    run(bench.clock, 5)
    assert bench.fired == []


def test_a_call_that_raises_does_not_cost_the_others_of_its_tick_theirs() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    bench = Bench()
    bench.deadlines.arm("broken", 1, broken)
    bench.arm("sound", 1)
    try:
        run(bench.clock, 5)
    except ZeroDivisionError:
        run(bench.clock, 5)
    assert [owner for owner, _ in bench.fired] == ["sound"]


def test_a_thousand_deadlines_need_one_timer() -> None:
    bench = Bench()
    for number in range(1000):
        bench.arm(str(number), number / 100)
    assert (len(bench.deadlines), len(bench.clock.getDelayedCalls())) == (1000, 1)
    run(bench.clock, 5)
    assert len(bench.clock.getDelayedCalls()) == 1


def test_without_deadlines_there_is_no_timer() -> None:
    bench = Bench()
    assert bench.clock.getDelayedCalls() == []
    bench.arm("fired", 0.2)
    run(bench.clock, 1)
    assert bench.clock.getDelayedCalls() == []
    bench.arm("dropped", 60)
    bench.deadlines.disarm("dropped")
    run(bench.clock, TICK_S)
    assert bench.clock.getDelayedCalls() == []


def test_deadlines_armed_and_dropped_without_end_leave_nothing_behind() -> None:
    """As the connects of a busy proxy do."""
    bench = Bench()
    bench.arm("kept", 1000)
    for number in range(2000):
        bench.arm(str(number), 2)
        bench.deadlines.disarm(str(number))
        run(bench.clock, 0.01)
    assert len(bench.deadlines) == 1
    assert len(bench.deadlines._buckets) < 100


def test_a_clock_that_leaps_calls_each_deadline_once() -> None:
    """A suspended host, or a reactor that was blocked."""
    bench = Bench()
    bench.arm("soon", 1)
    bench.arm("later", 3000)
    bench.arm("much later", 5000)
    bench.clock.advance(4000)
    assert [owner for owner, _ in bench.fired] == ["soon", "later"]
    run(bench.clock, 1001)
    assert [owner for owner, _ in bench.fired] == ["soon", "later", "much later"]


def test_stop_drops_every_deadline_and_the_timer() -> None:
    bench = Bench()
    bench.arm("it", 1)
    bench.deadlines.stop()
    assert (len(bench.deadlines), bench.clock.getDelayedCalls()) == (0, [])
    run(bench.clock, 5)
    assert bench.fired == []


def test_stop_may_come_first_twice_or_before_another_start() -> None:
    bench = Bench()
    bench.deadlines.stop()
    bench.arm("before", 1)
    bench.deadlines.stop()
    bench.deadlines.stop()
    run(bench.clock, 5)
    bench.arm("after", 1)
    run(bench.clock, 5)
    assert [owner for owner, _ in bench.fired] == ["after"]


owners = st.sampled_from("abcd")
waits = st.floats(0, 3, allow_nan=False)
steps = st.one_of(
    st.tuples(st.just("arm"), owners, waits),
    st.tuples(st.just("disarm"), owners, st.just(0.0)),
    st.tuples(st.just("wait"), st.just(""), waits),
)


@given(start=st.floats(0, 1e6, allow_nan=False), plan=st.lists(steps, max_size=40))
def test_whatever_is_armed_dropped_and_waited_for_every_deadline_comes_in_its_time(
    start: float, plan: list[tuple[str, str, float]]
) -> None:
    bench = Bench(start)
    due: dict[str, float] = {}
    for step, owner, seconds in [*plan, ("wait", "", 4.0)]:
        if step == "wait":
            run(bench.clock, seconds)
        elif step == "arm":
            bench.arm(owner, seconds)
            due[owner] = bench.clock.seconds() + seconds
        else:
            bench.deadlines.disarm(owner)
            due.pop(owner, None)
        for fired, at in bench.fired:
            expected = due.pop(fired)
            assert expected - ROUNDING_S <= at <= expected + LATE_MAX_S
        bench.fired.clear()
        assert all(bench.clock.seconds() <= expected + LATE_MAX_S for expected in due.values())
        assert len(bench.deadlines) == len(due)
        assert len(bench.clock.getDelayedCalls()) <= 1
    assert due == {}
