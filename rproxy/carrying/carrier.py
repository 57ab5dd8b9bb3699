"""The seam between sessions and the ways of carrying their bytes."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint


class Carrier(Protocol):
    """Accepts clients on any number of endpoints and carries their sessions."""

    @property
    def sessions(self) -> int:
        """How many sessions it holds now."""
        ...

    def serve(self, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        """Accept clients on `endpoint`; fails as `endpoint.listen` does."""
        ...

    def abort(self) -> None:
        """End every session at once."""
        ...
