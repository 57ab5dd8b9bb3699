"""Opening files that another process may have replaced."""

from __future__ import annotations

import os


def open_nonblocking(path: str, flags: int) -> int:
    """As `os.open`, and an `opener` for `open`: FIFOs do not block, and terminals do not take control."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
