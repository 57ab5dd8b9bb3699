"""The file in which a proxy keeps its back-ends for its next run. Everything here blocks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import attrs

from rproxy.net.files import open_nonblocking
from rproxy.sources.saved.rows import Rows, RowsError, decoded

BYTES_MAX: Final = 64 << 20
"""More than the largest pool needs."""


class StateFileError(Exception):
    """The file cannot be used; the message says why."""


@attrs.frozen
class StateFile:
    """`path` is absolute, and no symbolic link."""

    path: str

    def read(self) -> Rows:
        """Its rows; none if it does not exist. Raises `StateFileError`."""
        try:
            about = os.stat(self.path)
            _demand_regular(about)
            if about.st_size > BYTES_MAX:
                raise StateFileError("it is too large to be ours")
            with open(self.path, "rb", opener=open_nonblocking) as file:
                return decoded(file.read(BYTES_MAX))
        except FileNotFoundError:
            return {}
        except RowsError as error:
            raise StateFileError(str(error)) from None
        except OSError as error:
            raise StateFileError(error.strerror or str(error)) from None

    def write(self, pieces: Iterable[bytes]) -> None:
        """Replace its contents, or leave it as it is. Raises `StateFileError`.

        The new file is on the disk before it is renamed over the old one, so that either is always complete.
        """
        new = f"{self.path}.new"
        try:
            with suppress(FileNotFoundError):
                _demand_regular(os.stat(self.path))
            with suppress(FileNotFoundError):
                os.unlink(new)
            try:
                descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
                with open(descriptor, "wb") as file:
                    file.writelines(pieces)
                    file.flush()
                    os.fsync(descriptor)
                os.replace(new, self.path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(new)
                raise
        except OSError as error:
            raise StateFileError(error.strerror or str(error)) from None


def _demand_regular(about: os.stat_result) -> None:
    """Raises `StateFileError` unless it is a regular file: nothing else is read or replaced."""
    if not stat.S_ISREG(about.st_mode):
        raise StateFileError("it is no regular file")
