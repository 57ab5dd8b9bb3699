"""What became of the last reload, in a file beside the pid file: the proxy writes it, and `rproxy reload` reads it."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from typing import Final

import attrs

from rproxy.tap.pidfile_names import REPORT, name_of

POLL_S: Final = 0.02
_BYTES_MAX: Final = 1 << 16
_DONE: Final = "done"
_FAILED: Final = "failed"


@attrs.frozen
class Outcome:
    """What became of a reload, in one line for the operator."""

    worked: bool
    text: str


class ReloadReport:
    """The proxy's side. The file is open from before the privileges are shed, and written in place.

    Its line has the time at which the reload began (CLOCK_MONOTONIC, in s), whether it has worked, and the text.
    """

    def __init__(self, pidfile: str) -> None:
        """Make an empty file in place of one that was left behind. Raises `OSError`."""
        self._pidfile = os.path.abspath(pidfile)
        self.path = self._pidfile + REPORT
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.fchmod(self.descriptor, 0o644)  # whatever the umask

    def write(self, began_at: float, outcome: Outcome) -> None:
        """Replace what is in the file. A full disk costs the report, and nothing else."""
        word = _DONE if outcome.worked else _FAILED
        line = f"{began_at:.6f} {word} {' '.join(outcome.text.split())}\n".encode()[:_BYTES_MAX]
        with suppress(OSError):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, line, 0)

    def close(self) -> None:
        """Remove the file, wherever another process may have put it aside. Called once."""
        with suppress(OSError):
            os.unlink(name_of(self._pidfile, self.descriptor, REPORT))
        os.close(self.descriptor)


def reload(pidfile: str, within_s: float) -> Outcome:
    """Have the proxy with that pid file reload, and wait for `within_s` seconds for what becomes of it."""
    try:
        pid = _running(pidfile)
        report = os.open(pidfile + REPORT, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except _NotRunning as error:
        return Outcome(False, str(error))
    except OSError as error:
        return Outcome(False, f"{pidfile}{REPORT}: {error.strerror}; is {pidfile} the pid file of a proxy?")
    try:
        return _signal(pid, pidfile, report, within_s)
    finally:
        os.close(report)


def _signal(pid: int, pidfile: str, report: int, within_s: float) -> Outcome:
    began_at = time.monotonic()
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        return Outcome(False, f"process {pid}, of the pid file {pidfile}: {error.strerror}")
    while time.monotonic() < began_at + within_s:
        time.sleep(POLL_S)
        outcome = _outcome(os.pread(report, _BYTES_MAX, 0), began_at)
        if outcome is not None:
            return outcome
        if not _is_held(pidfile):
            return Outcome(False, f"process {pid} has ended; its log says why")
    return Outcome(False, f"process {pid} has not said within {within_s:g} s what became of it; its log may")


def _outcome(line: bytes, since: float) -> Outcome | None:
    """That of a reload which began after `since`; None if the file does not have it yet."""
    text = line.decode(errors="replace")
    if not text.endswith("\n"):
        return None
    began_at, word, rest = text.rstrip("\n").split(" ", 2)
    return Outcome(word == _DONE, rest) if float(began_at) >= since else None


class _NotRunning(Exception):
    """No proxy is known to run with a pid file. The text is for the operator."""


def _running(pidfile: str) -> int:
    """The process that holds the pid file. Raises `_NotRunning`."""
    try:
        with open(pidfile, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            text = file.read(20)
    except OSError as error:
        raise _NotRunning(
            f"the pid file {pidfile}: {error.strerror}; --pidfile names that of the proxy, if it has one"
        ) from None
    if not text.strip().isdigit() or not _is_held(pidfile):
        raise _NotRunning(f"no proxy runs with the pid file {pidfile}")
    return int(text)


def _is_held(pidfile: str) -> bool:
    """Whether a process holds the lock on a pid file, see `pidfile.hold`; True where the file system has no locks."""
    try:
        descriptor = os.open(pidfile, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
