"""The seam between sessions and the ways of carrying their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

from rproxy.sessions.session import Session

SLICE: Final = 128
"""Places in a carrier's table of sessions, taken or not, that make a slice."""


class Carrier(Protocol):
    """Accepts clients on any number of endpoints and carries their sessions."""

    def serve(self, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        """Accept clients on `endpoint`; fails as `endpoint.listen` does."""
        ...

    def heed(self, descriptor: int) -> None:
        """Whatever there is to do, let the reactor have its turn when this descriptor is readable."""
        ...

    def ignore(self, descriptor: int) -> None:
        """Heed it no more."""
        ...

    def slices(self) -> Iterator[list[Session]]:
        """The sessions that have their back-end, and are not over: as many at once as can be looked at in a moment.

        Each slice is of the sessions that there are when it is asked for; others may begin and end meanwhile.
        """
        ...

    def abort(self) -> None:
        """End every session at once."""
        ...
