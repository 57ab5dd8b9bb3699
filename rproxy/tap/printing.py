"""What the command `rproxy` prints, and how it says that it cannot."""

from __future__ import annotations

import errno
import os
import pydoc
import sys
from collections.abc import Callable


def failed(command: str, what: str, status: int) -> int:
    """Say in one line what is wrong. Returns the exit status."""
    print(f"rproxy {command}: error: {what}", file=sys.stderr)
    return status


def print_text(command: str, text: str) -> int:
    """Returns the exit status."""
    return _printed(command, lambda: write_all(sys.stdout.fileno(), text.encode(errors="surrogateescape")))


def show(command: str, text: str) -> int:
    """Print through a pager on a terminal, as UTF-8 otherwise. Returns the exit status."""
    return _printed(command, lambda: _page(text))


def _printed(command: str, write: Callable[[], None]) -> int:
    try:
        demand_output()
        write()
    except BrokenPipeError:  # the reader has seen enough
        pass
    except OSError as error:
        return failed(command, f"standard output: {error.strerror}", 1)
    return 0


def _page(text: str) -> None:
    if sys.stdout.isatty():
        pydoc.pager(text)
    else:
        write_all(sys.stdout.fileno(), text.encode())


def demand_output() -> None:
    """Raises `OSError` if there is no standard output."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")


def write_all(descriptor: int, data: bytes) -> None:
    """Raises `OSError`."""
    while data:
        data = data[os.write(descriptor, data) :]
