"""What a signal asks for: done in the reactor's own time, and seldom, however many signals come."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import Any, Final

EVERY_S: Final = 1.0


class Calm:
    """Calls at once when asked, but `EVERY_S` apart: who asks meanwhile shares the next call."""

    def __init__(self, clock: Any, call: Callable[[], None]) -> None:
        self._clock = clock
        self._call = call
        self._called_at = -math.inf
        self._due = False

    def ask(self) -> None:
        wait_s = self._called_at + EVERY_S - self._clock.seconds()
        if wait_s <= 0:
            self._run()
        elif not self._due:
            self._due = True
            self._clock.callLater(wait_s, self._run)

    def _run(self) -> None:
        self._due = False
        self._called_at = self._clock.seconds()
        self._call()


class Waking:
    """A handler of signals that has `call` called in the reactor's own time.

    The next signal may interrupt the handler of the last one, again and again until the stack is full: so it does
    nothing while a call is on its way.
    """

    def __init__(self, reactor: Any, call: Callable[[], None]) -> None:
        self._reactor = reactor
        self._call = call
        self._coming = False

    def __call__(self, *_: object) -> None:
        if not self._coming:
            self._coming = True
            self._reactor.callFromThread(self._arrived)

    def _arrived(self) -> None:
        self._coming = False
        self._call()


def at_signals(reactor: Any, call: Callable[[], None], *names: str) -> None:
    """On any of these signals, where the system has it: `call`, at most once in `EVERY_S`."""
    handler = Waking(reactor, Calm(reactor, call).ask)
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)
