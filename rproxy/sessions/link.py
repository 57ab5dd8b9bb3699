"""The seam between a session and what carries its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rproxy.sessions.session import Ending


class Link(Protocol):
    """The connections of one session, as its carrier has them: the client's, and the back-end's while there is one.

    A carrier sets `Session.link` when it opens the session, and keeps it until the session has ended. Everything here
    may be called at any time in between, and raises nothing.
    """

    def client_address(self) -> str:
        """host:port of the client, ``UNIX`` or its path for a Unix socket, ``gone`` when nothing is known any more.

        May cost a system call: ask for it only where somebody reads it.
        """
        ...

    def carried(self) -> tuple[int, int]:
        """Bytes carried so far: from the client, and to it."""
        ...

    def unsent(self) -> int:
        """Bytes that the kernel still holds for either side."""
        ...

    def waits_for_reader(self) -> bool:
        """Whether either side is there, but does not read what has been sent to it."""
        ...

    def has_vanished(self, after_s: float) -> bool:
        """Whether either side was sent something, and has acknowledged nothing for `after_s` seconds."""
        ...

    def probe_backend(self) -> None:
        """Have the kernel's keepalive probe the back-end's host soon."""
        ...

    def backend_heard(self, within_s: float) -> bool:
        """Whether the back-end's host has acknowledged anything within `within_s` seconds, if only a keepalive."""
        ...

    def cut(self, ending: Ending) -> None:
        """End the session at once: both sides see a reset. The session is told with `ended`."""
        ...
