"""Work that may block, such as writing to a disk or a network file system that hangs, outside of the reactor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class InBackground(Protocol[Result]):
    """Runs blocking work outside the reactor's thread."""

    def __call__(self, work: Callable[[], Result], done: Callable[[Result], None]) -> object:
        """Call `work`, which raises nothing, in another thread, and then `done` with its result in the reactor's."""


def in_thread(reactor: Any, name: str) -> InBackground[Any]:
    """Each call has its own daemon thread, so a disk or network that hangs does not delay the exit."""

    def start(work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def run() -> None:
            result = work()
            reactor.callFromThread(done, result)

        threading.Thread(target=run, name=name, daemon=True).start()

    return start


class Worker:
    """One daemon thread for all calls, which are made in order. It starts with the first one.

    A call costs the reactor a few microseconds: starting a thread has it wait until the new one runs.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._calls: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self._started = False

    def __call__(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """As `InBackground`."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        self._calls.put((work, done))

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            work, done = call
            self._reactor.callFromThread(done, work())

    def stop(self) -> None:
        """End the thread once it has made the calls that are there. None may follow."""
        if self._started:
            self._started = False
            self._calls.put(None)
