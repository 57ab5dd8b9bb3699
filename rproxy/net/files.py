"""Opening files that another process may have replaced, or that may be no files at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


def open_nonblocking(path: str, flags: int, mode: int = 0o666) -> int:
    """As `os.open`, and an `opener` for `open`: FIFOs do not block, and terminals do not take control."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, mode)


@contextmanager
def open_regular(path: str) -> Iterator[BinaryIO]:
    """A regular file, for reading. Raises `OSError`, also for anything else: reading a FIFO or a device could block."""
    _check_kind(os.stat(path))  # before opening it: opening a device may have effects
    with open(path, "rb", opener=open_nonblocking) as file:
        _check_kind(os.fstat(file.fileno()))
        yield file


def _check_kind(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
