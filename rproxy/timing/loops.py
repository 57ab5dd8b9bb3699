"""Periodic calls that outlive their own errors."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure


def keep_looping(loop: LoopingCall, interval_s: float, *, now: bool, failed: Callable[[Failure], object]) -> None:
    """Run `loop` until it is stopped. A `LoopingCall` ends at its first exception: `failed` is told, and it goes on."""

    def resume(failure: Failure) -> None:
        failed(failure)
        keep_looping(loop, interval_s, now=False, failed=failed)

    loop.start(interval_s, now=now).addErrback(resume)
