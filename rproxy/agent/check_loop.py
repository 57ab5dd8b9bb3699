"""Checks a service at an interval. Several outcomes in a row decide whether it is healthy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.timing.loops import keep_looping

INTERVAL_S: Final = 2.0
TIMEOUT_S: Final = 1.0
"""A check that takes longer is cancelled and has failed."""
FALL: Final = 3
"""A healthy service is unhealthy after this many failures in a row."""
RISE: Final = 2
"""An unhealthy service is healthy after this many successes in a row."""

T = TypeVar("T")


class CheckFailed(Exception):
    """The service is not healthy; the message says why, for the log."""


class Check(Protocol):
    """One way to check a service. `run` is called repeatedly, never while a check runs, and not after `stop`."""

    timeout_reason: str
    """What a check that is cancelled was waiting for, for the log. Read after `run`, which may have set it."""

    async def run(self) -> None:
        """Check. Returns if the service is healthy, raises `CheckFailed` if it is not.

        Any other exception counts as a failed check as well. What is awaited is cancelled after `TIMEOUT_S`, and by
        `CheckLoop.stop`; nothing that the check has opened may then stay open.
        """

    def stop(self) -> None:
        """Called once, last, after a running check has been cancelled: release what outlives a check."""


class Health:
    """Whether a service is healthy, by its checks: the first one decides, then `FALL` or `RISE` in a row."""

    def __init__(self) -> None:
        self.is_healthy: bool | None = None
        """None before the first check."""
        self._contrary = 0
        """Outcomes in a row that contradict `is_healthy`."""

    def update(self, passed: bool) -> bool:
        """Take one check's outcome into account. Returns whether `is_healthy` changes."""
        self._contrary = 0 if passed is self.is_healthy else self._contrary + 1
        needed = 1 if self.is_healthy is None else RISE if passed else FALL
        if self._contrary < needed:
            return False
        self.is_healthy, self._contrary = passed, 0
        return True


class CheckLoop:
    """Runs a check every `INTERVAL_S`, one at a time.

    `changed` is called after the first check and at every change of the service's health, with whether the service is
    healthy and, if not, why.
    """

    log = Logger()

    def __init__(self, check: Check, clock: IReactorTime, changed: Callable[[bool, str], object]) -> None:
        self.health = Health()
        self._check = check
        self._clock = clock
        self._changed = changed
        self._timed_out = False
        """Whether the last check was cancelled because of its timeout."""
        self._running: Deferred[None] | None = None
        """The check under way."""
        self._loop = LoopingCall(self._run)
        self._loop.clock = clock

    def start(self) -> None:
        """Check now and from now on."""
        keep_looping(self._loop, INTERVAL_S, now=True, failed=self._failed)

    def stop(self) -> None:
        """Cancel a running check. `changed` is not called after that."""
        if self._loop.running:
            self._loop.stop()
        if self._running is not None:
            self._running.cancel()
        self._check.stop()

    def _failed(self, failure: Failure) -> None:
        self.log.failure("checking the service", failure)

    def _run(self) -> Deferred[None]:
        """`LoopingCall` waits for the Deferred before it runs the next check."""
        self._timed_out = False
        self._running = Deferred.fromCoroutine(self._check.run())
        timeout = self._clock.callLater(TIMEOUT_S, self._time_out)
        return self._running.addBoth(self._ended, timeout).addCallbacks(self._passed, self._not_passed)

    def _time_out(self) -> None:
        self._timed_out = True
        if self._running is not None:
            self._running.cancel()

    def _ended(self, outcome: T, timeout: IDelayedCall) -> T:
        self._running = None
        if timeout.active():
            timeout.cancel()
        return outcome

    def _passed(self, _: None) -> None:
        if self.health.update(True):
            self._changed(True, "")

    def _not_passed(self, failure: Failure) -> None:
        if not self._loop.running:
            return
        reason = failure.getErrorMessage() or type(failure.value).__name__
        if self._timed_out:
            reason = f"{self._check.timeout_reason} (within {TIMEOUT_S:g} s)"
        if self.health.update(False):
            self._changed(False, reason)
