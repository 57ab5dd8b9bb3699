"""Pipes that the kernel moves bulk data through, from one socket to the other, without copying it (splice(2))."""

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
"""Bytes asked for."""
CAPACITY_MIN: Final = 1 << 16
"""One that holds less counts as none. Moving bytes through 64 KiB takes no more CPU time than reading and writing them
does, through the 8 KiB that a user beyond the soft limit gets it takes twice as much.
"""
KEPT: Final = 16
"""Empty pipes kept for the next transfer."""
AGAIN_S: Final = 1.0
"""How long to do without, once the kernel has given one that is too small."""
NOT_HERE: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV}
)
"""What splice(2) says where it cannot be had: bytes are to be read and written instead."""
_FORBIDDEN: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})
"""Those that no socket is the cause of: a sandbox's filter, a kernel without it."""
_FLAGS: Final = 0x01 | 0x02  # SPLICE_F_MOVE, SPLICE_F_NONBLOCK
_LIMITS: Final = "/proc/sys/fs"
_STATUS: Final = "/proc/self/status"
_UNLIMITED: Final = 1 << 21 | 1 << 24
"""CAP_SYS_ADMIN and CAP_SYS_RESOURCE: either has no limits of pipes."""
_SHARE: Final = 2
"""At most one half of what the user's pipes may hold: other processes of that user have pipes, too."""


@attrs.frozen
class Allowance:
    """What pipes may hold: each of them, and all together, in bytes; None for no limit."""

    each: int = CAPACITY
    together: int | None = None

    @classmethod
    def read(cls) -> Allowance:
        """This process's, which is another after twistd's `--uid`."""
        if _capabilities() & _UNLIMITED:
            return cls()
        each = min(_limit("pipe-max-size") or CAPACITY, CAPACITY)
        pages = [limit for limit in (_limit("pipe-user-pages-soft"), _limit("pipe-user-pages-hard")) if limit]
        return cls(each, min(pages) * os.sysconf("SC_PAGESIZE") // _SHARE if pages else None)

    def pipes(self, most: int) -> int:
        """How many there may be, of `most` that there are descriptors for."""
        return most if self.together is None else min(most, self.together // self.each)


def _limit(name: str) -> int:
    """One of the kernel's limits; 0, which is also what stands for none, where it does not tell."""
    with suppress(OSError, ValueError):
        return int(Path(_LIMITS, name).read_text())
    return 0


def _capabilities() -> int:
    """The effective ones as bits."""
    with suppress(OSError, ValueError):
        for line in Path(_STATUS).read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


class Pipe:
    """One direction's; `held` is how many bytes are in it."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0

    def grow(self, capacity: int) -> int:
        """Make room for so many bytes; returns for how many there is room then, 0 where that cannot be known."""
        with suppress(OSError):  # EPERM: the user's pipes have all the memory they may have
            return fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, capacity)
        with suppress(OSError):
            return fcntl.fcntl(self.writer, fcntl.F_GETPIPE_SZ)
        return 0

    def fill(self, source: int) -> int:
        """Take what `source`, a descriptor, has; 0 at the end of its stream. Raises `OSError` as splice(2)."""
        taken = os.splice(source, self.writer, CAPACITY, flags=_FLAGS)
        self.held += taken
        return taken

    def drain(self, target: int) -> None:
        """Give `target` all of it, or what it takes. Raises `OSError` as splice(2), but not when it takes nothing."""
        with suppress(BlockingIOError):
            while self.held:
                self.held -= os.splice(self.reader, target, self.held, flags=_FLAGS)

    def empty(self) -> bytes:
        """Take out all that is in it."""
        pieces = []
        while self.held:
            pieces.append(os.read(self.reader, self.held))
            self.held -= len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """At most `most` pipes at once, and no more than the user is allowed; the empty ones are used again, one with
    bytes in it never.
    """

    log = Logger()

    def __init__(self, most: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._allowance: Allowance | None = None
        """Known when the first is asked for: by then the process has shed its privileges."""
        self._free: list[Pipe] = []
        self._again_at = float("-inf")
        self._told: set[bool] = set()
        self.used = 0

    def take(self) -> Pipe | None:
        """An empty pipe, or None when there is none to be had now."""
        if self._free:
            self.used += 1
            return self._free.pop()
        if self.used >= self._most or self._seconds() < self._again_at:
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
        self._again_at = self._seconds() + AGAIN_S
        return None

    def refused(self, error: OSError) -> None:
        """An error in `NOT_HERE`. There will be no more pipes, unless a single socket may be the cause of it."""
        forbidden = error.errno in _FORBIDDEN
        if forbidden:
            self._most = 0
            self.close()
        if forbidden not in self._told:
            self._told.add(forbidden)
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
        """Close those that nobody uses."""
        while self._free:
            self._free.pop().close()
