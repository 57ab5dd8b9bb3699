"""The timer of slow start, over a pool whose back-ends each have three steps to go."""

from __future__ import annotations

from typing import cast

from twisted.internet.task import Clock

from rproxy.pool.backend import Backend
from rproxy.pool.events import NOTHING, Events, Transitioned
from rproxy.pool.states import Event, State
from rproxy.sources.slow_start import SlowStart
from tests.fakes import logged, run

STEPS = 3


class Ramp:
    """A pool: whatever `rose` in it is due every second, `STEPS` times; while `broken`, `tick` raises."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.slow_start = SlowStart(self.clock, self)
        self.ticks: list[float] = []
        self.due: list[float] = []
        self.broken = False

    @property
    def tick_due(self) -> float | None:
        return min(self.due, default=None)

    def tick(self, now: float) -> Events:
        self.ticks.append(now)
        if self.broken:
            raise ValueError("a bug")
        self.due = [due for due in self.due if due > now]
        return NOTHING

    def rose(self) -> None:
        self.due += [self.clock.seconds() + step for step in range(1, STEPS + 1)]
        self._publish(State.UP)

    def gone(self) -> None:
        self.due.clear()
        self._publish(State.FORGOTTEN)

    def _publish(self, after: State) -> None:
        self.slow_start.changed(Transitioned(cast(Backend, None), State.DOWN, after, Event.RISEN, "so"))


def test_the_share_of_one_that_rose_grows_every_second_until_it_is_whole() -> None:
    ramp = Ramp()
    run(ramp.clock, 0.5)
    ramp.rose()
    run(ramp.clock, 60.0)
    assert ramp.ticks == [1.5, 2.5, 3.5]
    assert ramp.clock.getDelayedCalls() == []


def test_one_that_rises_while_anothers_share_grows_has_steps_of_its_own_but_no_second_timer() -> None:
    ramp = Ramp()
    ramp.rose()
    run(ramp.clock, 1.5)
    assert ramp.ticks == [1.0]
    ramp.rose()
    assert len(ramp.clock.getDelayedCalls()) == 1
    run(ramp.clock, 60.0)
    assert ramp.ticks == [1.0, 2.0, 2.5, 3.0, 3.5, 4.5]


def test_one_that_is_due_earlier_than_all_others_brings_the_timer_forward() -> None:
    ramp = Ramp()
    ramp.rose()
    ramp.due.insert(0, 0.25)
    ramp.slow_start.changed(Transitioned(cast(Backend, None), State.DOWN, State.UP, Event.RISEN, "so"))
    run(ramp.clock, 0.5)
    assert ramp.ticks == [0.25]


def test_one_that_rises_again_grows_again() -> None:
    ramp = Ramp()
    for _ in range(2):
        ramp.rose()
        run(ramp.clock, 20.0)
    assert ramp.ticks == [1.0, 2.0, 3.0, 21.0, 22.0, 23.0]


def test_an_error_while_a_share_grows_is_logged_and_it_goes_on() -> None:
    ramp = Ramp()
    ramp.broken = True
    ramp.rose()
    with logged() as events:
        run(ramp.clock, 1.0)
    assert [event["log_failure"].type for event in events] == [ValueError]
    ramp.broken = False
    run(ramp.clock, 60.0)
    assert ramp.ticks == [1.0, 2.0, 3.0]


def test_with_the_last_one_gone_its_timer_ends() -> None:
    ramp = Ramp()
    ramp.rose()
    run(ramp.clock, 1.0)
    ramp.gone()
    assert ramp.clock.getDelayedCalls() == []


def test_a_stop_cancels_the_timer_and_may_come_twice() -> None:
    ramp = Ramp()
    ramp.rose()
    for _ in range(2):
        ramp.slow_start.stop()
        assert ramp.clock.getDelayedCalls() == []
    run(ramp.clock, 60.0)
    assert ramp.ticks == []
