from __future__ import annotations

import pytest
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from zope.interface.verify import verifyObject

from rproxy.study.engine import Engine
from rproxy.timing.wheel import Wheel


def test_it_is_a_clock() -> None:
    assert verifyObject(IReactorTime, Engine())


def test_calls_come_in_the_order_of_their_times_and_then_of_scheduling() -> None:
    engine = Engine()
    made: list[tuple[float, str]] = []
    for time, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (3.5, "d")):
        engine.at(time, lambda name: made.append((engine.now, name)), name)
    engine.run(3.0)
    assert made == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert engine.seconds() == 3.0
    engine.run(4.0)
    assert made[3:] == [(3.5, "d")]


def test_a_call_made_at_the_end_still_counts_and_may_schedule_more() -> None:
    engine = Engine()
    made: list[object] = []
    engine.at(1.0, lambda _: engine.at(1.0, made.append, "late"))
    engine.run(1.0)
    assert made == ["late"]


def test_a_timer_gets_its_arguments() -> None:
    engine = Engine()
    got: list[object] = []
    engine.callLater(1.0, lambda *args, **kwargs: got.append((args, kwargs)), 1, two=3)
    engine.run(1.0)
    assert got == [((1,), {"two": 3})]


def test_a_cancelled_timer_is_not_called() -> None:
    engine = Engine()
    got: list[object] = []
    timer = engine.callLater(1.0, got.append, 1)
    assert timer.active()
    assert engine.getDelayedCalls() == [timer]
    timer.cancel()
    assert not timer.active()
    assert engine.getDelayedCalls() == []
    engine.run(2.0)
    assert got == []
    with pytest.raises(AlreadyCancelled):
        timer.cancel()


def test_a_timer_that_was_called_cannot_be_moved() -> None:
    engine = Engine()
    timer = engine.callLater(1.0, lambda: None)
    engine.run(1.0)
    with pytest.raises(AlreadyCalled):
        timer.reset(1.0)


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, 1.0), (3.0, 3.5)])
def test_a_timer_is_called_once_at_the_time_to_which_it_was_moved(seconds: float, expected: float) -> None:
    engine = Engine()
    got: list[object] = []
    timer = engine.callLater(2.0, lambda: got.append(engine.now))
    engine.run(0.5)
    timer.reset(seconds)
    assert timer.getTime() == expected
    engine.run(10.0)
    assert got == [expected]


def test_a_delay_is_added_to_the_timers_own_time() -> None:
    engine = Engine()
    got: list[object] = []
    engine.callLater(2.0, lambda: got.append(engine.now)).delay(1.5)
    engine.run(10.0)
    assert got == [3.5]


def test_what_a_call_raises_ends_the_run() -> None:
    engine = Engine()
    engine.callLater(1.0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.run(2.0)
    assert engine.now == 1.0


def test_twisteds_loops_and_the_programs_wheel_run_on_it() -> None:
    engine, looped, turned = Engine(), [], []
    loop = LoopingCall(lambda: looped.append(engine.now))
    loop.clock = engine
    loop.start(1.0, now=False)
    wheel = Wheel(engine, 0.5)
    wheel.arm("one", 0.7, lambda: turned.append(engine.now))
    wheel.arm("two", 3.0, lambda: turned.append(engine.now))
    wheel.disarm("two")
    engine.run(3.5)
    assert looped == [1.0, 2.0, 3.0]
    assert turned == [1.0]
