"""The seam between a session and the carrier of its bytes."""

from __future__ import annotations

from typing import Final, Protocol

from rproxy.net.addresses import Address
from rproxy.sessions.endings import Ending


class Link(Protocol):
    """The connections of one session: the client's, and the back-end's while there is one.

    The carrier passes it to `Session`; the session drops it when it has ended. Every method may be called at any time
    in between, even before there is a back-end, and raises nothing.
    """

    def client_address(self) -> str:
        """host:port of the client; for a Unix socket its path, @name if that is abstract, or ``UNIX`` if it has none.

        Costs about a microsecond, so call it only where the text is used. Still correct after the connection has ended.
        """
        ...

    def client(self) -> Address | None:
        """The client's IP address and port, an IPv4-mapped one as IPv4; None for one without, as on a Unix socket.

        Where a PROXY header told the client's, it is that. Not to be called once the session has ended.
        """
        ...

    def peer_address(self) -> Address | None:
        """As `client`, but always of the connection itself: behind another proxy, the address of that one.

        Not to be called once the session has ended.
        """
        ...

    def destination(self) -> Address | None:
        """The IP address and port at this end of the client's connection; None and IPv4-mapped ones as in `client`.

        Takes a system call. Not to be called once the session has ended.
        """
        ...

    def carried(self) -> tuple[int, int]:
        """Bytes carried so far: from the client, and to it."""
        ...

    def unsent(self) -> int:
        """Bytes written to either side that the kernel still buffers, because the peer has not acknowledged them."""
        ...

    def waits_for_reader(self) -> bool:
        """Whether either side is alive, but does not read what has been sent to it (its receive window is closed)."""
        ...

    def has_vanished(self, after_s: float) -> bool:
        """Whether either side was sent something, and has acknowledged nothing for `after_s` seconds."""
        ...

    def probe_backend(self) -> None:
        """Have the kernel send the back-end's host a keepalive probe soon."""
        ...

    def backend_heard(self, within_s: float) -> bool:
        """Whether the back-end's host has acknowledged anything in the last `within_s` seconds, if only a keepalive."""
        ...

    def cut(self, ending: Ending) -> None:
        """End the session at once, as `ending`: both sides get a reset. Calls `Session.ended` before it returns."""
        ...


class _NoLink:
    """The link of a session that has ended: nothing is known, and nothing is left to cut."""

    def client_address(self) -> str:
        return "gone"

    def client(self) -> Address | None:
        return None

    def peer_address(self) -> Address | None:
        return None

    def destination(self) -> Address | None:
        return None

    def carried(self) -> tuple[int, int]:
        return 0, 0

    def unsent(self) -> int:
        return 0

    def waits_for_reader(self) -> bool:
        return False

    def has_vanished(self, after_s: float) -> bool:
        return False

    def probe_backend(self) -> None:
        pass

    def backend_heard(self, within_s: float) -> bool:
        return False

    def cut(self, ending: Ending) -> None:
        pass


NO_LINK: Final[Link] = _NoLink()
