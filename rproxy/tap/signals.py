"""Signals: handlers only wake the reactor, which acts at most once a second, however many signals arrive."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import Any, Final

EVERY_S: Final = 1.0
"""The least time between two calls."""


class Coalescer:
    """Calls on request, at once but at least `EVERY_S` apart: requests in between share the next call."""

    def __init__(self, clock: Any, call: Callable[[], None]) -> None:
        self._clock = clock
        self._call = call
        self._called_at = -math.inf
        self._due = False

    def request(self) -> None:
        """Call now, or when `EVERY_S` have passed since the last call."""
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


class ReactorCall:
    """A signal handler that has the reactor call `call`, outside the handler.

    While that is pending, further signals do nothing: they may interrupt the handler itself, and nested handlers could
    exhaust the stack.
    """

    def __init__(self, reactor: Any, call: Callable[[], None]) -> None:
        self._reactor = reactor
        self._call = call
        self._pending = False

    def __call__(self, *_: object) -> None:
        if not self._pending:
            self._pending = True
            self._reactor.callFromThread(self._run)

    def _run(self) -> None:
        self._pending = False
        self._call()


def at_signals(reactor: Any, call: Callable[[], None], *names: str) -> None:
    """Have the reactor call `call` on any of these signals, at most once in `EVERY_S`. Unknown names are ignored."""
    handler = ReactorCall(reactor, Coalescer(reactor, call).request)
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)


def at_second_stop(reactor: Any, call: Callable[[], None]) -> None:
    """Have a SIGINT or SIGTERM that comes while the reactor stops call `call`. Twisted would log an error."""

    def stopping() -> None:
        handler = ReactorCall(reactor, call)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, handler)

    reactor.addSystemEventTrigger("before", "shutdown", stopping)
