"""The file in which a proxy keeps its back-ends for its next run. Everything here blocks."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Final

import attrs

from rproxy.net.files import open_nonblocking
from rproxy.sources.saved.rows import RowsError, Saved, decoded, encoded

BYTES_MAX: Final = 64 << 20
"""More than the largest pool needs."""
TAKEN_OVER: Final = "another process writes it now"
"""Why a shared file cannot be written any more."""


class StateFileError(Exception):
    """The file cannot be used; the message says why."""


@attrs.define
class StateFile:
    """`path` is absolute, and no symbolic link.

    If it is `shared`, a proxy that takes over from this one may write it, too. It claims the file as it reads it: what
    this one has written by then is read, and from then on this one writes it no more.
    """

    path: str
    shared: bool = False
    _version: tuple[int, ...] | None = None
    """Which file this process has written; None before its first write, which replaces any file."""

    def read(self) -> Saved:
        """Its contents; nothing if it does not exist. Raises `StateFileError`.

        A shared one is claimed, unless it cannot be written now: then the first write claims it.
        """
        try:
            with self._alone():
                data = self._contents()
                saved = Saved() if data is None else decoded(data)
                if self.shared:
                    with suppress(OSError):
                        self._replace(encoded(saved, 1) if data is None else [data])
                return saved
        except RowsError as error:
            raise StateFileError(str(error)) from None
        except OSError as error:
            raise StateFileError(error.strerror or str(error)) from None

    def _contents(self) -> bytes | None:
        """None if it does not exist."""
        try:
            about = os.stat(self.path)
            _demand_regular(about)
            if about.st_size > BYTES_MAX:
                raise StateFileError("it is too large to be ours")
            with open(self.path, "rb", opener=open_nonblocking) as file:
                return file.read(BYTES_MAX)
        except FileNotFoundError:
            return None

    def write(self, pieces: Iterable[bytes]) -> None:
        """Replace its contents, or leave it as it is. Raises `StateFileError`.

        The new file is on the disk before it is renamed over the old one, so that either is always complete.
        """
        try:
            with self._alone():
                self._replace(pieces)
        except OSError as error:
            raise StateFileError(error.strerror or str(error)) from None

    def _alone(self) -> AbstractContextManager[None]:
        """While no other process reads or writes a shared one."""
        return _locked(os.path.dirname(self.path)) if self.shared else nullcontext()

    def _replace(self, pieces: Iterable[bytes]) -> None:
        new = f"{self.path}.new"
        with suppress(FileNotFoundError):
            about = os.stat(self.path)
            _demand_regular(about)
            if self.shared and self._version not in (None, _version(about)):
                raise StateFileError(TAKEN_OVER)
        with suppress(FileNotFoundError):
            os.unlink(new)
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
            with open(descriptor, "wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(descriptor)
                version = _version(os.fstat(descriptor))
            os.replace(new, self.path)
            self._version = version
        except BaseException:
            with suppress(OSError):
                os.unlink(new)
            raise


def _demand_regular(about: os.stat_result) -> None:
    """Raises `StateFileError` unless it is a regular file: nothing else is read or replaced."""
    if not stat.S_ISREG(about.st_mode):
        raise StateFileError("it is no regular file")


def _version(about: os.stat_result) -> tuple[int, ...]:
    """What distinguishes a file from those that replace it, though they may get its inode."""
    return about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Hold the lock on a folder, as far as its file system has locks. Raises `OSError` if it cannot be opened."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
