"""Log outputs: a rotated file, or a stream such as standard output, to which writing never blocks."""

from __future__ import annotations

import fcntl
import os
import re
import select
import stat
import sys
from collections.abc import Callable
from typing import IO, Any, Final

from twisted.logger import ILogObserver, LogEvent, formatEvent, textFileLogObserver
from twisted.python.logfile import LogFile
from zope.interface import implementer

from rproxy.net.files import open_nonblocking
from rproxy.tap.signals import at_signals

ROTATE_BYTES: Final = 1_000_000
PIECE_BYTES: Final = select.PIPE_BUF
"""Written atomically to a pipe, and without blocking once poll says that the pipe is writable (POSIX)."""
_LEGACY: Final = "log_legacy"
_NOISE: Final = re.compile(r".* starting on \S+", re.DOTALL)
"""Twisted's line for each port that it opens, with a class's name. The proxy's own lines say what a port is for."""


class Stream:
    """A pipe, a terminal or a socket. What it does not take at once is dropped; the next line says how much."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = reopened_nonblocking(descriptor)
        self._poller = select.poll()
        self._poller.register(self._descriptor, select.POLLOUT)
        self._lost = 0

    def write(self, text: str) -> None:
        """One line, or several that belong together."""
        if self._lost:
            if not self._put(f"({self._lost} log entries are lost: they were not read in time)\n"):
                self._lost += 1
                return
            self._lost = 0
        if not self._put(text):
            self._lost = 1

    def flush(self) -> None:
        """Nothing is buffered."""

    def _put(self, text: str) -> bool:
        rest = memoryview(text.encode(errors="backslashreplace"))
        try:
            while rest:
                if not self._poller.poll(0):
                    return False
                rest = rest[os.write(self._descriptor, rest[:PIECE_BYTES]) :]
        except OSError:  # full, as other processes write there too, or closed by the reader
            return False
        return True


def reopened_nonblocking(descriptor: int) -> int:
    """The same pipe or terminal, opened again: O_NONBLOCK on the shared one would affect other processes."""
    try:
        return open_nonblocking(f"/dev/fd/{descriptor}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:  # a socket, or another user's
        return descriptor


class RotatingFile(LogFile):
    """Twisted's log file, which also reopens a file that logrotate has replaced, and survives a failed rename.

    Two processes may write to the same file, as during a hand-over with --reuse-port.
    """

    def _openFile(self) -> None:
        super()._openFile()
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        fcntl.fcntl(self._file, fcntl.F_SETFL, flags | os.O_APPEND)

    def rotate(self) -> None:
        """Rename the file and begin a new one, or open the one that has replaced it."""
        try:
            if self._is_replaced():
                old = self._file
                self._openFile()
                old.close()
            else:
                super().rotate()
        except OSError:
            if self._file.closed:
                self._openFile()
        self.rotateLength = ROTATE_BYTES + (self.size if self.size >= ROTATE_BYTES else 0)

    def _is_replaced(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(self._file.fileno()))

    @property
    def descriptor(self) -> int:
        return self._file.fileno()


def open_file(path: str) -> RotatingFile | Stream:
    """A log file, or, if there is a pipe or a device of that name, a stream. Raises `OSError`."""
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        return Stream(open_nonblocking(path, os.O_WRONLY | os.O_CLOEXEC))
    file: RotatingFile = RotatingFile.fromFullPath(path, rotateLength=ROTATE_BYTES)
    return file


def standard_output() -> IO[str] | Stream:
    """sys.stdout if it is a file, its stream otherwise, and /dev/null if it is closed."""
    try:
        descriptor = sys.stdout.fileno()
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (AttributeError, OSError):
        return sys.stdout or open(os.devnull, "w")
    return sys.stdout if is_file else Stream(descriptor)


@implementer(ILogObserver)
class Observer:
    """Writes events to a file or stream, except Twisted's lines about its ports."""

    def __init__(self, out: Any) -> None:
        self._write = textFileLogObserver(out)

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_namespace") != _LEGACY or not _NOISE.fullmatch(formatEvent(event)):
            self._write(event)


def rotate_at_signal(reactor: Any, file: RotatingFile | None, reopen: Callable[[], None]) -> None:
    """On SIGUSR1, at most once a second, rotate `file`, if there is one, and have other logs opened again.

    Without this the signal kills the process.
    """

    def rotate() -> None:
        if file is not None:
            file.rotate()
        reopen()

    at_signals(reactor, rotate, "SIGUSR1")
