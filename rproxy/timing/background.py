"""Work that may block, such as writing to a disk or a network file system that hangs, outside of the reactor."""

from __future__ import annotations

import threading
from collections.abc import Callable
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
