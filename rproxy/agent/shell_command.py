"""Runs an operator's shell command without blocking, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from math import inf
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

POLL_S: Final = 0.02
"""How often to look whether a command has ended, and to read what it writes."""
_BLOCK: Final = 1 << 16
_BLOCKS_MAX: Final = 16
"""Blocks read in one poll: as much as a pipe can hold without privileges (pipe(7))."""


class CommandFailed(Exception):
    """The command did not end with status 0; the message says how it ended, without naming the command."""


class ShellCommand:
    """A shell command, of which one run at a time may be under way.

    It has a process group of its own, all of which is killed when the command ends, or the run does in another way. The
    last `output_max` bytes of its standard output are kept; if that is 0, its output goes to /dev/null, as what it
    writes to standard error always does. A run that takes longer than `timeout_s` fails.
    """

    def __init__(self, reactor: Any, command: str, *, output_max: int = 0, timeout_s: float = inf) -> None:
        self.command = command
        self._reactor = reactor
        self._output_max = output_max
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        """The last run's, until its whole group has been reaped."""

    def run(self) -> Deferred[bytes]:
        """Start a run. Fires with the end of its output, or fails with `CommandFailed`. Cancellable.

        Fails while processes of the previous run, though killed, are still there.
        """
        return Deferred.fromCoroutine(self._run())

    def stop(self) -> None:
        """To be called last, after a run under way has been cancelled: reaps it, waiting up to `POLL_S` for that."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_S)

    async def _run(self) -> bytes:
        if not self._is_reaped():
            raise CommandFailed("killed, and still there")
        until = self._reactor.seconds() + self._timeout_s
        process = self._process = self._start()
        output = b""
        try:
            while process.poll() is None:
                if self._reactor.seconds() >= until:
                    raise CommandFailed(f"not done within {self._timeout_s:g} s")
                await deferLater(self._reactor, POLL_S)
                output = self._read(process, output)
            output = self._read(process, output)  # what it wrote between the last poll and its end
        finally:
            self._kill(process)
        if process.returncode:
            raise CommandFailed(_describe_exit(process.returncode))
        return output

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command
                ["/bin/sh", "-c", self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._output_max else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # creates a process group as well
            )
        except OSError as error:
            raise CommandFailed(f"{error.strerror}") from None
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
        return process

    def _read(self, process: subprocess.Popen[bytes], output: bytes) -> bytes:
        """`output` with what the command has written since, cut to its last `output_max` bytes."""
        if process.stdout is None:
            return output
        with suppress(BlockingIOError):
            for _ in range(_BLOCKS_MAX):
                block = os.read(process.stdout.fileno(), _BLOCK)
                if not block:
                    break
                output = (output + block)[-self._output_max :]
        return output

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is not None:
            process.stdout.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        """Reap the group, polling until nothing is left, so that no zombie remains until the next run."""
        if not self._is_reaped():
            self._reactor.callLater(POLL_S, self._reap)

    def _is_reaped(self) -> bool:
        """Reap what has ended. Returns whether nothing is left of the last run's group.

        If this process is the init of a container, it inherits what a command leaves behind, and has to reap it.
        """
        process = self._process
        if process is None:
            return True
        if process.poll() is None:
            return False
        with suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-process.pid, os.WNOHANG)
                if not pid:
                    return False
        self._process = None
        return True


def _describe_exit(returncode: int) -> str:
    """`returncode` as `Popen` has it: negative for a signal."""
    return f"exit status {returncode}" if returncode > 0 else f"killed by signal {-returncode}"
