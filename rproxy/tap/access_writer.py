"""Has the access log written by a thread: a disk or a reader that hangs costs lines, and never sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.tap.access_targets import Outcome, Target
from rproxy.timing.background import InBackground
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit

LINES_MAX: Final = 20_000
"""Most lines that wait while others are being written: some 5 MB."""
STOP_S: Final = 2.0
"""How long the last lines may take, on stopping."""
_FULL: Final = "it is not written fast enough"


class AccessWriter:
    """Writes lines to a target, one call after the other.

    Lines that are lost are counted, and said once in the log until lines are written again.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, target: Target, in_background: InBackground[Outcome]) -> None:
        self._clock = clock
        self._target = target
        """Changed in the background only."""
        self._in_background = in_background
        self._lines: list[str] = []
        self._swap: Callable[[Target], Target] | None = None
        """Gets the target and returns the one to write to from then on; called before anything else is written."""
        self._is_busy = False
        """Whether a call is under way in the background."""
        self._stopped: Deferred[None] | None = None
        self._stop_timer: IDelayedCall | None = None
        self.lost = 0
        """Lines, since the start."""
        self._lost_before = 0
        """`lost` when the target last worked."""
        self._is_failing = False
        """Whether the log has said so."""
        self._failures = RateLimit.once_in(LOG_EVERY_S)

    def put(self, lines: list[str]) -> None:
        """Write these lines, after those before them."""
        if len(self._lines) + len(lines) > LINES_MAX:
            self._lose(len(lines), _FULL)
            return
        self._lines += lines
        self._work()

    def reopen(self) -> None:
        """Open the target again: what is put from now on goes to the file that has its name now."""
        self._swap = lambda target: target.reopened()
        self._work()

    def replace(self, target: Target) -> None:
        """Write to `target` from now on, and close the one before."""
        self._swap = lambda _: target
        self._work()

    def stop(self) -> Deferred[None]:
        """Write what is left, and close the target. Fires when that is done, or after `STOP_S`."""
        self._stopped = stopped = Deferred[None]()
        self._stop_timer = self._clock.callLater(STOP_S, self._give_up)
        self._work()
        return stopped

    def _work(self) -> None:
        if self._is_busy:
            return
        if self._swap is not None:
            swap, self._swap = self._swap, None
            self._is_busy = True
            self._in_background(lambda: self._swapped(swap), self._opened)
        elif self._lines:
            target, lines, self._lines = self._target, self._lines, []
            self._is_busy = True
            self._in_background(lambda: target.write(lines), self._written)
        elif self._stop_timer is not None:
            self._stop_timer.cancel()
            self._finish(self._target.close())

    def _swapped(self, swap: Callable[[Target], Target]) -> Outcome:
        """In the background."""
        old = self._target
        try:
            self._target = new = swap(old)
        except OSError as error:
            return Outcome(0, error.strerror or str(error))
        return Outcome() if new is old else Outcome(old.close())

    def _opened(self, outcome: Outcome) -> None:
        self.lost += outcome.lost
        if outcome.error is not None:
            self.log.error(
                "access log {name} cannot be opened again, and goes on where it was: {error}",
                name=self._target.name,
                error=outcome.error,
            )
        self._is_busy = False
        self._work()

    def _written(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._lose(outcome.lost, outcome.error)
        elif self._is_failing:
            self._is_failing = False
            self.log.info(
                "access log {name} is written again; {lost} record(s) are lost",
                name=self._target.name,
                lost=self.lost - self._lost_before,
            )
            self._lost_before = self.lost
        self._is_busy = False
        self._work()

    def _lose(self, lines: int, why: str) -> None:
        self.lost += lines
        if not self._is_failing and self._failures.admit(self._clock.seconds()):
            self._is_failing = True
            self.log.error(
                "access log {name}: {why}; sessions go on, and their records are lost until it can be written again",
                name=self._target.name,
                why=why,
            )

    def _give_up(self) -> None:
        """The last call of the target has not returned in time."""
        self._finish(len(self._lines))
        self.log.error("access log {name}: the last records could not be written in time", name=self._target.name)

    def _finish(self, lost: int) -> None:
        stopped, self._stopped, self._stop_timer = self._stopped, None, None
        self.lost += lost
        if stopped is not None:
            stopped.callback(None)
