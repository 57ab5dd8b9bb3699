"""Where the lines of the access log go: a file, a stream such as standard output, or systemd's journal."""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Final, Protocol

import attrs

from rproxy.config.model import ACCESS_JOURNAL, ACCESS_STDOUT
from rproxy.net.files import open_nonblocking
from rproxy.tap.logs import PIECE_BYTES, reopened_nonblocking

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
JOURNAL_NAME: Final = "rproxy-access"
"""The identifier of its entries (``journalctl -t``), which tells them from the proxy's own log."""
WAIT_S: Final = 1.0
"""How long one call may wait for a stream's reader, or for the journal."""
MODE: Final = 0o640
"""Of a new file, less the umask: who was connected to what is not for everybody to read."""
_LINES: Final = 1000
"""Lines that are joined at a time: Python's lock is held meanwhile."""
_SLOW: Final = "it is not read in time"


@attrs.frozen
class Outcome:
    """What became of some lines."""

    lost: int = 0
    """How many were not written."""
    error: str | None = None
    """Why not; None if all were written."""


class Target(Protocol):
    """Takes lines. Its methods are called one at a time, in any thread."""

    name: str
    """For messages."""

    def write(self, lines: Sequence[str]) -> Outcome:
        """Write the lines, in order. May block while a file does, and otherwise for `WAIT_S`. Raises nothing."""
        ...

    def reopened(self) -> Target:
        """Open what has the target's name now; returns itself if it has no name. Raises `OSError`.

        `close` of the old target follows, unless the same one is returned.
        """
        ...

    def close(self) -> int:
        """Close it. Returns how many lines are lost that `write` did not count: 1 if one was cut off, otherwise 0."""
        ...


def open_target(where: str) -> Target:
    """The target that `--access-log` names. Raises `OSError`."""
    if where == ACCESS_JOURNAL:
        try:
            return Journal(JOURNAL_SOCKET)
        except OSError as error:
            raise OSError(error.errno, f"{JOURNAL_SOCKET}: {error.strerror}") from None
    return _standard_output() if where == ACCESS_STDOUT else open_file(where)


class Descriptor:
    """A file that lines are appended to, or a stream. The next `write` completes a line that an error has cut off."""

    def __init__(self, name: str, descriptor: int, path: str | None = None) -> None:
        """`path` is where it can be opened again; None for a stream that can not, and is never closed."""
        self.name = name
        self.descriptor = descriptor
        self.path = path
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._poller = select.poll()
        self._poller.register(descriptor, select.POLLOUT)
        self._cut = b""
        """The rest of a line that has been begun."""

    def write(self, lines: Sequence[str]) -> Outcome:
        """As `Target`."""
        deadline = monotonic() + WAIT_S
        for start in range(0, len(lines), _LINES):
            batch = lines[start : start + _LINES]
            data = self._cut + "".join(f"{line}\n" for line in batch).encode("ascii", "backslashreplace")
            written, error = self._put(data, deadline)
            lost = data.count(b"\n", written)
            if data[written - 1 : written] not in (b"", b"\n") or (not written and self._cut):
                self._cut, lost = data[written : data.index(b"\n", written) + 1], lost - 1
            else:
                self._cut = b""
            if error is not None:
                return Outcome(lost + len(lines) - start - len(batch), error)
        return Outcome()

    def _put(self, data: bytes, deadline: float) -> tuple[int, str | None]:
        """How many bytes are written, and why not all."""
        written = 0
        try:
            while written < len(data):
                if self._is_file:
                    written += os.write(self.descriptor, memoryview(data)[written:])
                    continue
                if not self._poller.poll(max(0.0, deadline - monotonic()) * 1000):
                    return written, _SLOW
                with suppress(BlockingIOError):  # other processes write there, too
                    written += os.write(self.descriptor, memoryview(data)[written : written + PIECE_BYTES])
        except OSError as error:
            return written, error.strerror or str(error)
        return written, None

    def reopened(self) -> Target:
        """As `Target`."""
        return self if self.path is None else open_file(self.path)

    def close(self) -> int:
        """As `Target`."""
        if self.path is not None:
            os.close(self.descriptor)
        return bool(self._cut)


def open_file(path: str) -> Descriptor:
    """A file, which is made if it is not there, or what else has that name. Raises `OSError`."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = open_nonblocking(path, flags, MODE)
    return Descriptor(path, descriptor, path)


def _standard_output() -> Descriptor:
    try:
        descriptor = sys.__stdout__.fileno()  # type: ignore[union-attr]  # twistd replaces sys.stdout by its log
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (AttributeError, ValueError):
        raise OSError(None, "it is closed") from None
    return Descriptor("standard output", descriptor if is_file else reopened_nonblocking(descriptor))


class Journal:
    """The journal, by its own protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram for each line."""

    name = "the journal"

    def __init__(self, path: str) -> None:
        """Raises `OSError`."""
        self._path = path
        self._sock = self._connected()

    def _connected(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock

    def write(self, lines: Sequence[str]) -> Outcome:
        """As `Target`. The journal may have been restarted, and has another socket then."""
        deadline = monotonic() + WAIT_S
        for number, line in enumerate(lines):
            entry = f"PRIORITY=6\nSYSLOG_IDENTIFIER={JOURNAL_NAME}\nMESSAGE={line}\n".encode(errors="backslashreplace")
            try:
                self._send(entry, deadline)
            except OSError as error:
                return Outcome(len(lines) - number, error.strerror or str(error))
        return Outcome()

    def _send(self, entry: bytes, deadline: float) -> None:
        """Raises `OSError`."""
        while True:
            try:
                self._sock.send(entry)
            except BlockingIOError:
                poller = select.poll()
                poller.register(self._sock, select.POLLOUT)
                if not poller.poll(max(0.0, deadline - monotonic()) * 1000):
                    raise OSError(None, _SLOW) from None
            except OSError:
                old, self._sock = self._sock, self._connected()
                old.close()
                self._sock.send(entry)
                return
            else:
                return

    def reopened(self) -> Target:
        """As `Target`."""
        return self

    def close(self) -> int:
        """As `Target`."""
        self._sock.close()
        return 0
