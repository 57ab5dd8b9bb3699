"""Pipes that the kernel moves bulk data through, from one socket to the other, without copying it (splice(2))."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final

CAPACITY: Final = 1 << 20
"""Bytes asked for; without privileges the kernel may give 64 KiB."""
KEPT: Final = 16
"""Empty pipes kept for the next transfer."""
_FLAGS: Final = 0x01 | 0x02  # SPLICE_F_MOVE, SPLICE_F_NONBLOCK


class Pipe:
    """One direction's; `held` is how many bytes are in it."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        with suppress(OSError):  # EPERM: the user's pipes have all the memory they may have
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, CAPACITY)

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

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """At most `most` pipes at once; the empty ones are used again, one with bytes in it never."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: list[Pipe] = []
        self.used = 0

    def take(self) -> Pipe | None:
        """An empty pipe, or None when there is none to be had now."""
        if self._free:
            self.used += 1
            return self._free.pop()
        if self.used >= self._most:
            return None
        try:
            pipe = Pipe()
        except OSError:  # EMFILE, ENFILE
            return None
        self.used += 1
        return pipe

    def release(self, pipe: Pipe) -> None:
        self.used -= 1
        if pipe.held or len(self._free) >= KEPT:
            pipe.close()
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._free:
            self._free.pop().close()
