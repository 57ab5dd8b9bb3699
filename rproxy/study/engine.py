"""Virtual time: a queue of events, and the clock that moves from one to the next.

A heap: `task.Clock` sorts all its calls at each `callLater`, which a million sessions cannot afford.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

_Event = tuple[float, int, Callable[[Any], object], Any]
"""Due time, order of scheduling, what is called, and its argument."""


@implementer(IReactorTime)
class Engine:
    """Makes calls in the order of their times, and those of one time in the order of scheduling. Time begins at 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[_Event] = []
        self._order = count()

    def at(self, time: float, call: Callable[[Any], object], argument: Any = None) -> None:
        """Call `call(argument)` at `time`, in s, which is not before now. It cannot be cancelled."""
        heappush(self._heap, (time, next(self._order), call, argument))

    def run(self, until: float) -> None:
        """Make every call that is due by `until`, a time in s, and end there. What a call raises ends the run."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, argument = heappop(heap)
            call(argument)
        self.now = until

    # As `IReactorTime`.

    def seconds(self) -> float:
        """The time, in s."""
        return self.now

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> IDelayedCall:  # noqa: A002
        """See `IReactorTime`."""
        timer = Timer(self, self.now + delay, callable, args, kwargs)
        self.at(timer.due, timer.fire)
        return timer

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """See `IReactorTime`: the timers that `callLater` has set, in no order."""
        timers = {getattr(call, "__self__", None) for _, _, call, _ in self._heap}
        return [each for each in timers if isinstance(each, Timer) and each.active()]


@implementer(IDelayedCall)
class Timer:
    """A call that can be cancelled or moved. Its entry in the heap stays; `fire` finds out whether it still holds."""

    __slots__ = ("_args", "_call", "_cancelled", "_engine", "_kwargs", "due")

    def __init__(
        self,
        engine: Engine,
        due: float,
        call: Callable[..., Any],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> None:
        self._engine = engine
        self.due = due
        self._call: Callable[..., Any] | None = call
        """None once it was called or cancelled."""
        self._args = args
        self._kwargs = kwargs
        self._cancelled = False

    def fire(self, _: None) -> None:
        """An entry of it is due: make the call, unless it was cancelled, made, or moved to a later time."""
        call = self._call
        if call is None or self.due > self._engine.now:
            return
        self._call = None
        call(*self._args, **self._kwargs)

    def getTime(self) -> float:
        """See `IDelayedCall`."""
        return self.due

    def cancel(self) -> None:
        """See `IDelayedCall`. Raises `AlreadyCalled` or `AlreadyCancelled`."""
        self._demand_active()
        self._cancelled = True
        self._call = None
        self._args = ()
        self._kwargs = {}

    def delay(self, secondsLater: float) -> None:  # noqa: N803
        """See `IDelayedCall`. Raises as `cancel`."""
        self._move(self.due + secondsLater)

    def reset(self, secondsFromNow: float) -> None:  # noqa: N803
        """See `IDelayedCall`. Raises as `cancel`."""
        self._move(self._engine.now + secondsFromNow)

    def _move(self, due: float) -> None:
        self._demand_active()
        self.due = due
        self._engine.at(due, self.fire)

    def active(self) -> bool:
        """See `IDelayedCall`."""
        return self._call is not None

    def _demand_active(self) -> None:
        if self._call is None:
            raise AlreadyCancelled if self._cancelled else AlreadyCalled
