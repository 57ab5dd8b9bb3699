"""Names of pid files, and of what is beside them, while processes take over from each other."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

OLD: Final = ".old"
OLDER_MAX: Final = 9
"""How many processes that go on beside the present one have a pid file: ``.old``, ``.old.old`` and so on."""
REPORT: Final = ".reload"
"""What follows the path of a pid file in that of its process' report of reloads, which is renamed with it."""


def name_of(path: str, descriptor: int, suffix: str = "") -> str:
    """The present name of the file that was `path` with that suffix, which another process may have put aside; empty
    for none.
    """
    for name in (path + OLD * times + suffix for times in range(OLDER_MAX + 1)):
        with suppress(OSError):
            if os.path.samestat(os.lstat(name), os.fstat(descriptor)):
                return name
    return ""
