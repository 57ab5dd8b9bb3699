"""Opening files that another process may have replaced."""

from __future__ import annotations

import os


def open_nonblocking(path: str, flags: int) -> int:
    """As `os.open`, also as an opener for `open`: a FIFO does not block, a terminal does not become the controlling one."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
