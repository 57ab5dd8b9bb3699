"""Reading the small text files in which a kernel shows its figures: those of /proc and of cgroups."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from io import FileIO
from typing import Final, Generic, TypeVar

from rproxy.net.files import open_nonblocking

REOPEN_S: Final = 10.0
"""A kept file is opened anew after this time: another one may have been mounted in its place."""
_SIZE: Final = 4096
"""Bytes first read of a kept file."""
_SIZE_MAX: Final = 1 << 20
"""Bytes read of a file. What is needed is at its beginning."""

T = TypeVar("T")


class UnreadableFigure(Exception):
    """A figure cannot be read now; the message says why, for the log."""


class MissingFile(UnreadableFigure):
    """The file does not exist."""


class KernelFile(Generic[T]):
    """A file that is read often: kept open, and read from its beginning by a single pread(2).

    For files whose whole text one read returns, which is true of those that the kernel makes in one piece (its
    `single_open`), but not of lists such as /proc/net/tcp, /proc/vmstat or /proc/self/mountinfo.
    """

    def __init__(self, path: str, parse: Callable[[bytes], T]) -> None:
        """`parse` makes the figure of the file's text; raises `UnreadableFigure` with a reason, without the path."""
        self.path = path
        self._parse = parse
        self._file: FileIO | None = None
        self._descriptor = -1
        self._reopen_at = float("-inf")
        self._size = _SIZE

    def read(self, now: float) -> T:
        """The figure. `now` is in seconds, monotonic. Raises `UnreadableFigure`, and then leaves no file open."""
        if now < self._reopen_at:
            try:
                text = os.pread(self._descriptor, self._size, 0)
                if len(text) < self._size:
                    return self._parse(text)
            except (OSError, UnreadableFigure):  # its file system or cgroup has gone, or another file is there now
                pass
        return self._read_anew(now)

    def close(self) -> None:
        """Close the file until it is read again. May be called at any time."""
        self._reopen_at = float("-inf")
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _read_anew(self, now: float) -> T:
        self.close()
        try:
            self._file = _open_regular(self.path)
            self._descriptor = self._file.fileno()
            figure = self._parse(self._text())
        except OSError as error:
            self.close()
            raise _unreadable(self.path, error) from None
        except UnreadableFigure as error:
            self.close()
            raise UnreadableFigure(f"{self.path}: {error}") from None
        self._reopen_at = now + REOPEN_S
        return figure

    def _text(self) -> bytes:
        while len(text := os.pread(self._descriptor, self._size, 0)) == self._size < _SIZE_MAX:
            self._size *= 2
        return text


def read_file(path: str) -> bytes:
    """The text of any file, up to a size, opened anew. Raises `UnreadableFigure`, `MissingFile` if there is none."""
    try:
        with _open_regular(path) as file:
            content = bytearray()
            while len(content) < _SIZE_MAX and (block := file.read(1 << 16)):
                content += block
            return bytes(content)
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnreadableFigure as error:
        raise UnreadableFigure(f"{path}: {error}") from None


def read_if_there(path: str) -> bytes | None:
    """As `read_file`; None if there is no such file."""
    try:
        return read_file(path)
    except MissingFile:
        return None


def _open_regular(path: str) -> FileIO:
    """Raises `OSError`, or `UnreadableFigure` if it is not a regular file."""
    file = open(path, "rb", buffering=0, opener=open_nonblocking)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableFigure("not a regular file")
    return file


def _unreadable(path: str, error: OSError) -> UnreadableFigure:
    kind = MissingFile if isinstance(error, FileNotFoundError) else UnreadableFigure
    return kind(f"{path}: {error.strerror or error}")
