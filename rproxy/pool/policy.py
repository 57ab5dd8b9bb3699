"""The seam for a way of choosing back-ends."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

from rproxy.pool.backend import Backend

if TYPE_CHECKING:
    from rproxy.pool.table import Table


class Policy(Protocol):
    """The seam for a way of choosing.

    `choose` changes nothing that a second call would notice; the session says with `opened` that it follows the
    choice. `failed` says that the back-end did not answer: a probe, or an `opened` session, before its `closed`.
    `reported` comes after everything else that changed the back-end: a datagram, or its growing share.
    """

    def choose(self, table: Table, exclude: Collection[Backend]) -> Backend | None: ...
    def opened(self, backend: Backend) -> None: ...
    def closed(self, backend: Backend) -> None: ...
    def failed(self, backend: Backend) -> None: ...
    def reported(self, backend: Backend) -> None: ...
