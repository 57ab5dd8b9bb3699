"""The seam between sessions and the ways of carrying their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

from rproxy.sessions.session import Ending, Session

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

    def carried(self, session: Session) -> int:
        """Bytes of a connected session carried so far, both ways."""
        ...

    def counts(self, session: Session) -> tuple[int, int]:
        """The same from its client and to it."""
        ...

    def unsent(self, session: Session) -> int:
        """Bytes of a connected session that the kernel still holds for either side."""
        ...

    def waits_for_reader(self, session: Session) -> bool:
        """Whether either side of a connected session is there, but does not read what has been sent to it."""
        ...

    def has_vanished(self, session: Session, after_s: float) -> bool:
        """Whether either side of a connected session has not been heard for so long, although it was sent something."""
        ...

    def ask(self, session: Session) -> None:
        """Have the kernel ask the back-end's host soon whether it is there."""
        ...

    def is_heard(self, session: Session, within_s: float) -> bool:
        """Whether the back-end's host has acknowledged anything in so many seconds, were it only that question."""
        ...

    def cut(self, session: Session, ending: Ending) -> None:
        """End a connected session at once: both sides see a reset."""
        ...

    def abort(self) -> None:
        """End every session at once."""
        ...
