"""Periodic calls that go on after an exception."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure


def keep_looping(loop: LoopingCall, interval_s: float, *, now: bool, failed: Callable[[Failure], object]) -> None:
    """Run `loop` every `interval_s` seconds until it is stopped; `now`: the first time at once.

    A `LoopingCall` ends at its first exception. `failed` is called with each, and the loop goes on an interval later.
    """

    def resume(failure: Failure) -> None:
        failed(failure)
        keep_looping(loop, interval_s, now=False, failed=failed)

    loop.start(interval_s, now=now).addErrback(resume)
