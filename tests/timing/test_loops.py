"""Periodic calls, some of which raise."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock, LoopingCall
from twisted.python.failure import Failure

from rproxy.timing.loops import keep_looping
from tests.fakes import run


@pytest.mark.parametrize(("now", "called_at"), [(True, [0, 1, 2, 3]), (False, [1, 2, 3])])
def test_a_loop_goes_on_after_each_exception_until_it_is_stopped(now: bool, called_at: list[float]) -> None:
    clock = Clock()
    calls: list[float] = []
    failures: list[Failure] = []

    def call() -> None:
        calls.append(clock.seconds())
        raise ZeroDivisionError

    loop = LoopingCall(call)
    loop.clock = clock
    keep_looping(loop, 1.0, now=now, failed=failures.append)
    run(clock, 3.5)
    assert calls == pytest.approx(called_at)
    assert [failure.type for failure in failures] == [ZeroDivisionError] * len(calls)
    loop.stop()
    run(clock, 10)
    assert len(calls) == len(called_at)
    assert clock.getDelayedCalls() == []
