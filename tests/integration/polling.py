"""Waiting for what another process or thread does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

READY_S: Final = 20.0
"""How long a process may take to start on a busy machine. Nothing that is tested for is this slow."""
STOP_S: Final = 5.0
PROMPT_S: Final = 1.0
"""The time for what happens at once: everything that waits for no timer."""
SOCKET_S: Final = 10.0
"""No socket of a test waits longer: a hang is a failure, not the end of the run."""
T = TypeVar("T")


def poll(until: Callable[[], T | None], within_s: float, what: str, every_s: float = 0.01) -> T:
    """The first true answer of `until`."""
    deadline = time.monotonic() + within_s
    while not (answer := until()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(every_s)
    return answer


def in_background(call: Callable[..., T], *arguments: Any) -> Future[T]:
    """What a thread makes of `call`: its result, or its exception."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
