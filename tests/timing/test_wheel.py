"""Timers that go off together, at whole ticks."""

from __future__ import annotations

from random import Random

import pytest
from twisted.internet.task import Clock

from rproxy.timing.wheel import Wheel
from tests.fakes import logged, run

TICK_S = 0.01


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock, TICK_S)
        self.called: list[tuple[str, float]] = []

    def later(self, delay_s: float, name: str = "") -> None:
        self.wheel.call_later(delay_s, lambda: self.called.append((name, self.clock.seconds())))


@pytest.mark.parametrize("delay_s", [0.0, 0.0001, 0.01, 0.0123, 1.0, 4.999, 300.0])
def test_a_call_is_late_by_less_than_a_tick_and_never_early(delay_s: float) -> None:
    bench = Bench()
    run(bench.clock, 0.0042)
    turn = bench.wheel.call_later(delay_s, lambda: bench.called.append(("", bench.clock.seconds())))
    run(bench.clock, delay_s + TICK_S)
    ((_, at),) = bench.called
    assert delay_s - 1e-6 <= at - 0.0042 < delay_s + TICK_S
    assert at == pytest.approx(turn.due_s)


def test_a_call_at_a_whole_tick_is_not_late() -> None:
    bench = Bench()
    for tick in range(1, 400):
        bench.later(tick * TICK_S)
    run(bench.clock, 5)
    assert [at for _, at in bench.called] == pytest.approx([tick * TICK_S for tick in range(1, 400)], abs=1e-9)


def test_calls_come_in_the_order_of_their_ticks_and_those_of_one_in_their_own() -> None:
    bench = Bench()
    for delay_s, name in [(0.5, "c"), (0.101, "a"), (0.3, "b"), (0.105, "a2"), (0.01, "first")]:
        bench.later(delay_s, name)
    run(bench.clock, 1)
    assert [name for name, _ in bench.called] == ["first", "a", "a2", "b", "c"]


def test_one_timer_is_enough_for_any_number() -> None:
    bench = Bench()
    rng = Random(1)
    for _ in range(10_000):
        bench.later(rng.uniform(0, 5))
        assert len(bench.clock.calls) == 1
    run(bench.clock, 6)
    assert len(bench.called) == 10_000
    assert bench.clock.calls == []


def test_a_call_that_is_cancelled_is_not_made() -> None:
    bench = Bench()
    turn = bench.wheel.call_later(1, lambda: bench.called.append(("cancelled", 0)))
    bench.later(1, "kept")
    turn.cancel()
    turn.cancel()
    run(bench.clock, 2)
    assert bench.called == [("kept", 1.0)]


def test_a_call_may_ask_for_the_next_one() -> None:
    bench = Bench()

    def again() -> None:
        bench.called.append(("", bench.clock.seconds()))
        bench.wheel.call_later(0.5, again)

    again()
    run(bench.clock, 2.1)
    assert [at for _, at in bench.called] == pytest.approx([0, 0.5, 1, 1.5, 2])


def test_an_error_of_one_is_logged_and_costs_no_other_its_call() -> None:
    bench = Bench()

    def broken() -> None:
        raise ZeroDivisionError

    bench.wheel.call_later(1, broken)
    bench.later(1, "same tick")
    bench.later(2, "later")
    with logged() as events:
        run(bench.clock, 3)
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
    assert [name for name, _ in bench.called] == ["same tick", "later"]


def test_after_a_long_absence_everything_due_is_called_once() -> None:
    bench = Bench()
    for second in range(1, 10):
        bench.later(second, str(second))
    bench.clock.advance(5.5)
    assert [name for name, _ in bench.called] == ["1", "2", "3", "4", "5"]
    run(bench.clock, 5)
    assert len(bench.called) == 9


def test_a_stop_leaves_no_timer_and_may_come_twice() -> None:
    bench = Bench()
    bench.later(1)
    for _ in range(2):
        bench.wheel.stop()
        assert bench.clock.getDelayedCalls() == []
    run(bench.clock, 2)
    assert bench.called == []
