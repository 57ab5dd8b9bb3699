"""Timers that go off together: waking up costs more than a probe does."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

TICK_S: Final = 0.01
_TOLERANCE: Final = 1e-6
"""Of a tick: what comes due at one, but for rounding, does not wait for the next."""


class Turn:
    """A call that is to be made at a tick. `due_s` is when, on the wheel's clock."""

    __slots__ = ("_call", "due_s")

    def __init__(self, due_s: float, call: Callable[[], None]) -> None:
        self.due_s = due_s
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self._call = None

    def take(self) -> None:
        if self._call is not None:
            self._call()


class Wheel:
    """Calls later, at whole ticks of `tick_s` seconds: late by less than one, and with all others of that tick.

    Thousands of back-ends that are probed each few seconds then wake the process a hundred times a second and not for
    every probe and every answer. A tick is short enough for their probes to stay spread.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, tick_s: float = TICK_S) -> None:
        self._clock = clock
        self._tick_s = tick_s
        self._turns: dict[int, list[Turn]] = {}
        self._ticks: list[int] = []
        """A heap of the keys of `_turns`."""
        self._timer: IDelayedCall | None = None
        self._timer_tick = 0

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Turn:
        tick = math.ceil((self._clock.seconds() + delay_s) / self._tick_s - _TOLERANCE)
        turn = Turn(tick * self._tick_s, call)
        turns = self._turns.get(tick)
        if turns is None:
            self._turns[tick] = [turn]
            heappush(self._ticks, tick)
            self._await_first()
        else:
            turns.append(turn)
        return turn

    def stop(self) -> None:
        self._turns.clear()
        self._ticks.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_first(self) -> None:
        if not self._ticks:
            return
        first = self._ticks[0]
        if self._timer is not None:
            if self._timer_tick <= first:
                return
            self._timer.cancel()
        wait_s = max(0.0, first * self._tick_s - self._clock.seconds())
        self._timer, self._timer_tick = self._clock.callLater(wait_s, self._turn), first

    def _turn(self) -> None:
        self._timer = None
        now_tick = math.floor(self._clock.seconds() / self._tick_s + _TOLERANCE)
        while self._ticks and self._ticks[0] <= now_tick:
            for turn in self._turns.pop(heappop(self._ticks)):
                try:
                    turn.take()
                except Exception:
                    self.log.failure("a timer of the monitor's")
        self._await_first()
