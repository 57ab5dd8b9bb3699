"""Where the log goes: a file that is rotated, or standard output, which is never waited for."""

from __future__ import annotations

import os
import re
import select
import stat
import sys
from typing import IO, Any, Final

from twisted.logger import ILogObserver, LogEvent, formatEvent, textFileLogObserver
from twisted.python.logfile import LogFile
from zope.interface import implementer

from rproxy.tap.signals import at_signals

ROTATE_BYTES: Final = 1_000_000
PIECE_BYTES: Final = select.PIPE_BUF
"""What a pipe takes whole or not at all, and takes without waiting when it is said to be writable."""
_LEGACY: Final = "log_legacy"
_NOISE: Final = re.compile(r".* starting on \S+", re.DOTALL)
"""Twisted's word on every port that is opened, with the name of a class. Ours says what it is opened for."""


class Stream:
    """A pipe, a terminal or a socket. What it does not take at once is dropped, and counted in the next line."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = _without_waiting(descriptor)
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
        """Nothing is held back."""

    def _put(self, text: str) -> bool:
        rest = memoryview(text.encode(errors="backslashreplace"))
        try:
            while rest:
                if not self._poller.poll(0):
                    return False
                rest = rest[os.write(self._descriptor, rest[:PIECE_BYTES]) :]
        except OSError:  # full after all, since others write there too; or nobody can read it any more
            return False
        return True


def _without_waiting(descriptor: int) -> int:
    """The same pipe or terminal, opened anew: O_NONBLOCK on a shared descriptor would surprise others that have it."""
    try:
        return os.open(f"/dev/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # a socket, or another user's
        return descriptor


class RotatingFile(LogFile):
    """Twisted's, which also follows a file that logrotate has put in its place, and survives what it may not rename."""

    def rotate(self) -> None:
        """Begin a new file."""
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
    """A log file, or what there is in its place. Raises `OSError`."""
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        return Stream(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
    file: RotatingFile = RotatingFile.fromFullPath(path, rotateLength=ROTATE_BYTES)
    return file


def standard_output() -> IO[str] | Stream:
    """Twisted's choice where it is a file, or not open."""
    try:
        descriptor = sys.stdout.fileno()
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (AttributeError, OSError):
        return sys.stdout or open(os.devnull, "w")
    return sys.stdout if is_file else Stream(descriptor)


@implementer(ILogObserver)
class Observer:
    """Writes what is worth it to a file or stream."""

    def __init__(self, out: Any) -> None:
        self._write = textFileLogObserver(out)

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_namespace") != _LEGACY or not _NOISE.fullmatch(formatEvent(event)):
            self._write(event)


def rotate_at_signal(reactor: Any, file: RotatingFile | None) -> None:
    """On SIGUSR1, at most once a second. Where there is no file, the signal must not end the process."""
    at_signals(reactor, file.rotate if file is not None else lambda: None, "SIGUSR1")
