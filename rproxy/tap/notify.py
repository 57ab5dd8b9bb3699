"""Telling the service manager how this process is (sd_notify(3)): ready, reloading, stopping, and alive."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall

STATUS_EVERY_S: Final = 10.0
"""How often `Status` is looked at; it is sent if it has changed."""
DRAIN_MARGIN_S: Final = 10.0
"""How much later than expected the next message of a process that drains may reach the manager."""
_SOCKET, _WATCHDOG, _WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_MICROSECONDS: Final = 1_000_000
_PINGS_PER_TIMEOUT: Final = 3
"""The manager recommends two at least."""

Status = Callable[[], str]
"""What ``systemctl status`` is to show: a line without control characters, or nothing."""


class Notifier:
    """Sends messages to the service manager, or nothing where there is none. It never blocks, and raises nothing.

    The watchdog's messages come from a timer of the reactor: one that does not turn sends none, and the manager
    restarts the process.
    """

    def __init__(self, address: str | bytes | None = None, watchdog_s: float | None = None) -> None:
        """`address` is a Unix datagram socket's; `watchdog_s` the time without a message that counts as a hang."""
        self._address = address
        self._watchdog_s = watchdog_s
        self._timers: list[IDelayedCall] = []
        self._status: Status = str
        self._shown = ""

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """The one that the environment names. Removes the variables, so that no child speaks for this process."""
        text, usec, pid = (environment.pop(name, "") for name in (_SOCKET, _WATCHDOG, _WATCHDOG_PID))
        for_us = pid in ("", str(os.getpid()))
        watchdog_s = int(usec) / _MICROSECONDS if for_us and usec.isascii() and usec.isdigit() else 0.0
        return cls(_address(text), watchdog_s or None)

    def run_on(self, reactor: Any, status: Status = str) -> None:
        """Say that the process is ready once `reactor` runs, that it stops when it does, and `status` meanwhile."""
        if self._address is None:
            return
        self._status = status
        reactor.callWhenRunning(self._ready, reactor)
        reactor.addSystemEventTrigger("before", "shutdown", self._stopping)
        reactor.addSystemEventTrigger("after", "shutdown", self._stop_timers)

    def _ready(self, reactor: Any) -> None:
        self._send("READY=1", *self._changed_status())
        self._repeat(reactor, STATUS_EVERY_S, lambda: self._send(*self._changed_status()))
        if self._watchdog_s is not None:
            self._send("WATCHDOG=1")
            self._repeat(reactor, self._watchdog_s / _PINGS_PER_TIMEOUT, lambda: self._send("WATCHDOG=1"))

    def _repeat(self, reactor: Any, every_s: float, call: Callable[[], None]) -> None:
        place = len(self._timers)

        def again() -> None:
            self._timers[place] = reactor.callLater(every_s, again)
            call()

        self._timers.append(reactor.callLater(every_s, again))

    def _changed_status(self) -> list[str]:
        shown = self._status()
        if shown == self._shown:
            return []
        self._shown = shown
        return [f"STATUS={shown}"]

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the configuration is read again meanwhile."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def _stopping(self) -> None:
        self._send("STOPPING=1", *self._changed_status())

    def draining(self, sessions: int, within_s: float) -> None:
        """Say how many sessions are left, and that the next message will come `within_s` seconds from now at most."""
        self._shown = f"stopping: {sessions} session(s) left"
        self._send(f"STATUS={self._shown}", f"EXTEND_TIMEOUT_USEC={round(within_s * _MICROSECONDS)}")

    def _stop_timers(self) -> None:
        for timer in self._timers:
            if timer.active():
                timer.cancel()

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(errors="replace"), self._address)


def _address(text: str) -> str | bytes | None:
    """The address of NOTIFY_SOCKET: a path, or @name for Linux' abstract namespace. None for others, such as vsock."""
    if text.startswith("@"):
        return b"\0" + os.fsencode(text[1:])
    return text if text.startswith("/") else None
