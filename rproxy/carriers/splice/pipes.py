"""Pipes through which the kernel moves bulk data from socket to socket without copying it: splice(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
from twisted.logger import Logger

CAPACITY: Final = 1 << 20
"""Bytes requested for each pipe (F_SETPIPE_SZ)."""
CAPACITY_MIN: Final = 1 << 16
"""Bytes: smaller pipes are not used. At 64 KiB splicing takes no more CPU time than reading and writing; at the 8 KiB
that a user beyond pipe-user-pages-soft gets, it takes twice as much.
"""
KEPT: Final = 16
"""Most empty pipes kept for the next transfers."""
RETRY_S: Final = 1.0
"""No pipe is made for this long after the kernel has given one that is too small."""
UNSUPPORTED: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV}
)
"""Errors of splice(2) that mean it cannot be used here: data is read and written instead."""
_FORBIDDEN: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})
"""Those of them that hold for every socket: a seccomp filter, a kernel without splice(2)."""
_FLAGS: Final = 0x01 | 0x02  # SPLICE_F_MOVE, SPLICE_F_NONBLOCK
_LIMITS: Final = "/proc/sys/fs"
_STATUS: Final = "/proc/self/status"
_UNLIMITED: Final = 1 << 21 | 1 << 24
"""Bits of CAP_SYS_ADMIN and CAP_SYS_RESOURCE: either lifts the limits on pipes (pipe(7))."""
_SHARE: Final = 2
"""Divisor: at most half of what all pipes of the user may hold, as other processes of that user need pipes, too."""


@attrs.frozen
class Allowance:
    """What pipes may hold, in bytes."""

    each: int = CAPACITY
    together: int | None = None
    """All pipes; None for no limit."""

    @classmethod
    def read(cls) -> Allowance:
        """This process's allowance, which changes when twistd sheds privileges (`--uid`)."""
        if _capabilities() & _UNLIMITED:
            return cls()
        each = min(_limit("pipe-max-size") or CAPACITY, CAPACITY)
        pages = [limit for limit in (_limit("pipe-user-pages-soft"), _limit("pipe-user-pages-hard")) if limit]
        return cls(each, min(pages) * os.sysconf("SC_PAGESIZE") // _SHARE if pages else None)

    def pipes(self, most: int) -> int:
        """How many pipes there may be, at most `most`."""
        return most if self.together is None else min(most, self.together // self.each)


def _limit(name: str) -> int:
    """A limit in /proc/sys/fs; 0, which is also the kernel's value for no limit, if it cannot be read."""
    with suppress(OSError, ValueError):
        return int(Path(_LIMITS, name).read_text())
    return 0


def _capabilities() -> int:
    """The effective capabilities as bits; 0 if they cannot be read."""
    with suppress(OSError, ValueError):
        for line in Path(_STATUS).read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


class Pipe:
    """A pipe for one direction of a session; `held` is how many bytes are in it. Raises `OSError` as pipe2(2)."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0

    def grow(self, capacity: int) -> int:
        """Request a capacity of `capacity` bytes; returns the actual capacity, 0 if unknown."""
        with suppress(OSError):  # EPERM: the user's pipes already have all the memory that they may have
            return fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, capacity)
        with suppress(OSError):
            return fcntl.fcntl(self.writer, fcntl.F_GETPIPE_SZ)
        return 0

    def fill(self, source: int) -> int:
        """Move data from the descriptor `source` into the pipe; returns the bytes moved, 0 at the end of the stream.

        Raises `OSError` as splice(2).
        """
        taken = os.splice(source, self.writer, CAPACITY, flags=_FLAGS)
        self.held += taken
        return taken

    def drain(self, target: int) -> None:
        """Move data from the pipe to the descriptor `target` until the pipe is empty or `target` accepts no more.

        Raises `OSError` as splice(2), except EAGAIN.
        """
        with suppress(BlockingIOError):
            while self.held:
                self.held -= os.splice(self.reader, target, self.held, flags=_FLAGS)

    def empty(self) -> bytes:
        """Read all that is in the pipe."""
        pieces = []
        while self.held:
            pieces.append(os.read(self.reader, self.held))
            self.held -= len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """At most `most` pipes at once, and no more than the user is allowed. Only empty pipes are used again."""

    log = Logger()

    def __init__(self, most: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._allowance: Allowance | None = None
        """Read when the first pipe is taken: by then the process has shed its privileges."""
        self._free: list[Pipe] = []
        self._retry_at = float("-inf")
        self._logged: set[bool] = set()
        self.used = 0

    def take(self) -> Pipe | None:
        """An empty pipe, to be given back with `release`; None if no pipe is available now."""
        if self._free:
            self.used += 1
            return self._free.pop()
        if self.used >= self._most or self._seconds() < self._retry_at:
            return None
        pipe = self._make()
        if pipe is not None:
            self.used += 1
        return pipe

    def _make(self) -> Pipe | None:
        if self._allowance is None:
            self._allowance = Allowance.read()
            self._most = self._allowance.pipes(self._most)
            if self.used >= self._most:
                return None
        try:
            pipe = Pipe()
        except OSError as error:  # EMFILE, ENFILE
            if error.errno in _FORBIDDEN:
                self.refused(error)
            return None
        if pipe.grow(self._allowance.each) >= CAPACITY_MIN:
            return pipe
        pipe.close()
        self._retry_at = self._seconds() + RETRY_S
        return None

    def refused(self, error: OSError) -> None:
        """splice(2) has raised an error of `UNSUPPORTED`. If it holds for every socket, no more pipes are given out."""
        forbidden = error.errno in _FORBIDDEN
        if forbidden:
            self._most = 0
            self.close()
        if forbidden not in self._logged:
            self._logged.add(forbidden)
            self.log.warn(
                "{whose} cannot be spliced ({reason}): they are read and written instead",
                whose="bytes" if forbidden else "the bytes of a connection",
                reason=error.strerror or error,
            )

    def release(self, pipe: Pipe) -> None:
        self.used -= 1
        if pipe.held or len(self._free) >= KEPT or not self._most:
            pipe.close()
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close the pipes that are not in use."""
        while self._free:
            self._free.pop().close()
