"""Waiting for other processes and threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from tests.integration.stopwatch import Stopwatch

READY_S: Final = 40.0
"""Seconds that a process may take to start on a busy machine; nothing under test takes that long."""
STOP_S: Final = 5.0
PROMPT_S: Final = 1.0
"""Seconds allowed for anything that does not wait for a timer."""
SOCKET_S: Final = 20.0
"""Timeout of sockets in s: a hang fails the test, not the run."""
T = TypeVar("T")


def poll(until: Callable[[], T | None], within_s: float, what: str, every_s: float = 0.01) -> T:
    """Call `until` repeatedly; returns its first true result. Waiting for a CPU does not count."""
    watch = Stopwatch()
    while not (answer := until()):
        assert watch.wall_s < within_s or watch.own_s < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(every_s)
    return answer


def result(future: Future[T], within_s: float, what: str) -> T:
    """The result of a future, which raises what the future does."""
    poll(future.done, within_s, what)
    return future.result()


def in_background(call: Callable[..., T], *arguments: Any) -> Future[T]:
    """Run `call` in a thread; the future has its result or exception."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
