"""The seam between sessions and the ways of carrying their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

from rproxy.carrying.session import Ending, Session


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

    def connected(self) -> Iterator[Session]:
        """The sessions that have their back-end, and are not over."""
        ...

    def carried(self, session: Session) -> int:
        """Bytes of a connected session carried so far, both ways."""
        ...

    def counts(self, session: Session) -> tuple[int, int]:
        """The same from its client and to it."""
        ...

    def unsent(self, session: Session) -> int:
        """Bytes of a connected session that the kernel still holds for either side."""
        ...

    def cut(self, session: Session, ending: Ending) -> None:
        """End a connected session at once: both sides see a reset."""
        ...

    def abort(self) -> None:
        """End every session at once."""
        ...
