"""Many calls from one reactor timer, at whole ticks, on a clock that the test moves."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from rproxy.timing.wheel import TICK_S, Wheel
from tests.fakes import logged, run, turn

FINE_TICK_S = 0.01
ROUNDING_S = 1e-6
LATE_MAX_S = TICK_S + ROUNDING_S
"""The wheel promises one tick at most."""


class Bench:
    """A wheel, and when each owner's call was made."""

    def __init__(self, start: float = 0.0, tick_s: float = TICK_S) -> None:
        self.clock = Clock()
        self.clock.rightNow = start
        self.wheel = Wheel(self.clock, tick_s)
        self.fired: list[tuple[str, float]] = []

    def arm(self, owner: str, delay_s: float) -> float:
        return self.wheel.arm(owner, delay_s, lambda: self.fired.append((owner, self.clock.seconds())))

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


@pytest.mark.parametrize("delay_s", [0.0, 0.0001, 0.01, 0.0123, 1.0, 4.999, 300.0])
def test_a_call_is_late_by_less_than_a_tick_and_never_early(delay_s: float) -> None:
    bench = Bench(0.0042, FINE_TICK_S)
    due_s = bench.arm("it", delay_s)
    run(bench.clock, delay_s + FINE_TICK_S)
    ((_, at),) = bench.fired
    assert delay_s - 1e-6 <= at - 0.0042 < delay_s + FINE_TICK_S
    assert at == pytest.approx(due_s)


def test_a_call_at_a_whole_tick_is_not_late() -> None:
    bench = Bench(tick_s=FINE_TICK_S)
    for tick in range(1, 400):
        bench.arm(str(tick), tick * FINE_TICK_S)
    run(bench.clock, 5)
    assert [at for _, at in bench.fired] == pytest.approx([tick * FINE_TICK_S for tick in range(1, 400)], abs=1e-9)


def test_calls_come_in_the_order_of_their_ticks_and_those_of_one_in_the_order_of_arming() -> None:
    bench = Bench(tick_s=FINE_TICK_S)
    for delay_s, name in [(0.5, "c"), (0.101, "a"), (0.3, "b"), (0.105, "a2"), (0.01, "first")]:
        bench.arm(name, delay_s)
    run(bench.clock, 1)
    assert [name for name, _ in bench.fired] == ["first", "a", "a2", "b", "c"]


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
    bench.wheel.disarm("dropped")
    run(bench.clock, 5)
    assert [owner for owner, _ in bench.fired] == ["kept"]


def test_dropping_what_is_not_armed_does_nothing() -> None:
    bench = Bench()
    bench.wheel.disarm("nobody")
    bench.arm("it", 0.1)
    run(bench.clock, 1)
    bench.wheel.disarm("it")
    assert len(bench.fired) == 1


@pytest.mark.parametrize("second_s", [0.5, 1.0, 1.04, 3.0])
def test_arming_again_replaces_the_deadline(second_s: float) -> None:
    bench = Bench()
    bench.arm("it", 1)
    bench.arm("it", second_s)
    assert len(bench.wheel) == 1
    run(bench.clock, 10)
    (at,) = bench.fired_at("it")
    assert second_s - ROUNDING_S <= at <= second_s + LATE_MAX_S


def test_a_call_may_arm_its_owner_again() -> None:
    bench = Bench()
    calls: list[float] = []

    def again() -> None:
        calls.append(bench.clock.seconds())
        if len(calls) < 3:
            bench.wheel.arm("it", 1, again)

    bench.wheel.arm("it", 1, again)
    run(bench.clock, 10)
    assert calls == pytest.approx([1, 2, 3], abs=3 * 2 * TICK_S)
    assert bench.clock.getDelayedCalls() == []


def test_a_call_that_arms_at_once_does_not_keep_the_reactor() -> None:
    bench = Bench()
    calls: list[float] = []

    def again() -> None:
        calls.append(bench.clock.seconds())
        bench.wheel.arm("it", 0, again)

    bench.wheel.arm("it", 1, again)
    bench.clock.rightNow = 1.0
    turn(bench.clock)
    assert calls == [1]
    assert len(bench.clock.calls) == 1


def test_a_call_may_drop_another_deadline_of_the_same_tick() -> None:
    bench = Bench()
    bench.wheel.arm("first", 1, lambda: bench.wheel.disarm("second"))
    bench.arm("second", 1)
    run(bench.clock, 5)
    assert bench.fired == []


def test_what_a_call_raises_is_logged_and_costs_no_other_its_call() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    bench = Bench()
    bench.wheel.arm("broken", 1, broken)
    bench.arm("sound", 1)
    bench.arm("later", 2)
    with logged() as events:
        run(bench.clock, 5)
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
    assert [owner for owner, _ in bench.fired] == ["sound", "later"]


def test_a_thousand_deadlines_need_one_timer() -> None:
    bench = Bench()
    for number in range(1000):
        bench.arm(str(number), number / 100)
    assert (len(bench.wheel), len(bench.clock.getDelayedCalls())) == (1000, 1)
    run(bench.clock, 5)
    assert len(bench.clock.getDelayedCalls()) == 1


def test_one_timer_is_enough_for_any_number() -> None:
    bench = Bench(tick_s=FINE_TICK_S)
    rng = Random(1)
    for number in range(10_000):
        bench.arm(str(number), rng.uniform(0, 5))
        assert len(bench.clock.calls) == 1
    run(bench.clock, 6)
    assert len(bench.fired) == 10_000
    assert bench.clock.calls == []


def test_without_deadlines_there_is_no_timer() -> None:
    bench = Bench()
    assert bench.clock.getDelayedCalls() == []
    bench.arm("fired", 0.2)
    run(bench.clock, 1)
    assert bench.clock.getDelayedCalls() == []
    bench.arm("dropped", 60)
    bench.wheel.disarm("dropped")
    run(bench.clock, TICK_S)
    assert bench.clock.getDelayedCalls() == []


def test_deadlines_armed_and_dropped_without_end_leave_nothing_behind() -> None:
    """As the connects of a busy proxy do."""
    bench = Bench()
    bench.arm("kept", 1000)
    for number in range(2000):
        bench.arm(str(number), 2)
        bench.wheel.disarm(str(number))
        run(bench.clock, 0.01)
    assert len(bench.wheel) == 1
    assert len(bench.wheel._buckets) < 100


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


def test_after_a_long_absence_everything_due_is_called_once_in_its_order() -> None:
    bench = Bench(tick_s=FINE_TICK_S)
    for second in range(1, 10):
        bench.arm(str(second), second)
    bench.clock.advance(5.5)
    assert [owner for owner, _ in bench.fired] == ["1", "2", "3", "4", "5"]
    run(bench.clock, 5)
    assert len(bench.fired) == 9


def test_a_timer_that_has_come_once_for_nothing_waits_for_what_is_left() -> None:
    bench = Bench()
    bench.arm("dropped", 1)
    bench.arm("kept", 60)
    bench.wheel.disarm("dropped")
    run(bench.clock, 2 * TICK_S)
    (timer,) = bench.clock.getDelayedCalls()
    assert timer.getTime() == pytest.approx(60)
    run(bench.clock, 61)
    assert [owner for owner, _ in bench.fired] == ["kept"]


def test_stop_drops_every_deadline_and_the_timer() -> None:
    bench = Bench()
    bench.arm("it", 1)
    bench.wheel.stop()
    assert (len(bench.wheel), bench.clock.getDelayedCalls()) == (0, [])
    run(bench.clock, 5)
    assert bench.fired == []


def test_after_a_stop_by_a_call_no_other_of_its_turn_is_made() -> None:
    bench = Bench()
    bench.wheel.arm("first", 1, bench.wheel.stop)
    bench.arm("same tick", 1)
    bench.arm("later", 2)
    bench.clock.advance(5)
    assert bench.fired == []
    assert bench.clock.getDelayedCalls() == []


def test_stop_may_come_first_twice_or_before_another_start() -> None:
    bench = Bench()
    bench.wheel.stop()
    bench.arm("before", 1)
    bench.wheel.stop()
    bench.wheel.stop()
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
            bench.wheel.disarm(owner)
            due.pop(owner, None)
        for fired, at in bench.fired:
            expected = due.pop(fired)
            assert expected - ROUNDING_S <= at <= expected + LATE_MAX_S
        bench.fired.clear()
        assert all(bench.clock.seconds() <= expected + LATE_MAX_S for expected in due.values())
        assert len(bench.wheel) == len(due)
        assert len(bench.clock.getDelayedCalls()) <= 1
    assert due == {}
