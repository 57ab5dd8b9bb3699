"""Errors of a connect that are this host's own fault."""

from __future__ import annotations

import errno
from typing import Final

LOCAL_ERRORS: Final = frozenset(
    {errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EACCES, errno.EPERM}
)
"""Connect errors caused by this host, not by the host that was connected to."""
