"""The seam for sources of back-ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rproxy.pool.backend import Backend, Registration


class Source(Protocol):
    """Adds back-ends to pools, removes them, and reports on them, by calling `Pool` and publishing its events."""

    timeout_s: float
    """How long a check of a restored row may take."""

    def restore(self, rows: Iterable[tuple[Registration, int]]) -> None:
        """Take rows of an earlier run of this proxy: registrations, and their service ports.

        Called once or several times after the source's port is open, with a few rows at a time. Those that are
        still allowed are checked at once, and forgotten if that fails. Raises nothing for rows it cannot use.
        """

    def is_restoring(self, registration: Registration, port: int) -> bool:
        """Whether a row that was given to `restore` is being checked, or will be, by any service that takes it."""

    def is_unconfirmed(self, registration: Registration, port: int) -> bool:
        """Whether any service that takes such a row has it not, or has had no answer for it yet."""

    def exclude(self, backend: Backend) -> None:
        """Remove a back-end that turned out to lead back to this proxy. Called at any time."""
