"""Whether the agent's own service is well: checked now and then, and judged by several checks in a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.timing.loops import keep_looping

EVERY_S: Final = 2.0
PATIENCE_S: Final = 1.0
"""A check that takes longer has failed."""
FAILURES: Final = 3
"""In a row, after which a service that was well is not."""
SUCCESSES: Final = 2
"""In a row, after which one that was not well is."""


T = TypeVar("T")


class CheckFailed(Exception):
    """The service is not well; the text says what is the matter."""


class Check(Protocol):
    """One way to look at a service."""

    waits_for: str
    """What has not come, for when its time is up."""

    def run(self) -> Deferred[None]:
        """Fires when the service is well, fails with `CheckFailed` when it is not. May be cancelled."""

    def stop(self) -> None:
        """Leave nothing behind: no check follows."""


class Health:
    """What checks say of a service, counted. The first one decides; then it takes several to change the mind."""

    def __init__(self) -> None:
        self.well: bool | None = None
        """None before the first check."""
        self._against = 0

    def take(self, passed: bool) -> bool:
        """One check's outcome. Whether that changes what we think."""
        self._against = 0 if passed is self.well else self._against + 1
        needed = 1 if self.well is None else SUCCESSES if passed else FAILURES
        if self._against < needed:
            return False
        self.well, self._against = passed, 0
        return True


class ServiceCheck:
    """Runs `check` every `EVERY_S`; tells `changed` whether the service is well, and what is the matter if not.

    `changed` is called after the first check, and then whenever that has changed.
    """

    log = Logger()

    def __init__(self, check: Check, clock: IReactorTime, changed: Callable[[bool, str], object]) -> None:
        self.health = Health()
        self._check = check
        self._clock = clock
        self._timed_out = False
        self._changed = changed
        self._running: Deferred[None] | None = None
        self._loop = LoopingCall(self._run)
        self._loop.clock = clock

    def start(self) -> None:
        keep_looping(self._loop, EVERY_S, now=True, failed=self._failed)

    def stop(self) -> None:
        if self._loop.running:
            self._loop.stop()
        if self._running is not None:
            self._running.cancel()
        self._check.stop()

    def _failed(self, failure: Failure) -> None:
        self.log.failure("checking the service", failure)

    def _run(self) -> Deferred[None]:
        """The next check waits for this one."""
        self._timed_out = False
        self._running = maybeDeferred(self._check.run)
        patience = self._clock.callLater(PATIENCE_S, self._time_is_up)
        return self._running.addBoth(self._ended, patience).addCallbacks(self._passed, self._not_passed)

    def _time_is_up(self) -> None:
        self._timed_out = True
        if self._running is not None:
            self._running.cancel()

    def _ended(self, outcome: T, patience: IDelayedCall) -> T:
        self._running = None
        if patience.active():
            patience.cancel()
        return outcome

    def _passed(self, _: None) -> None:
        if self.health.take(True):
            self._changed(True, "")

    def _not_passed(self, failure: Failure) -> None:
        if not self._loop.running:
            return
        reason = failure.getErrorMessage() or type(failure.value).__name__
        if self._timed_out:
            reason = f"{self._check.waits_for} (within {PATIENCE_S:g} s)"
        if self.health.take(False):
            self._changed(False, reason)
