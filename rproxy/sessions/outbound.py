"""How a service's sessions connect to a back-end, and the seam for where from."""

from __future__ import annotations

from socket import SocketType
from typing import Any, Final, Protocol

import attrs

from rproxy.net.addresses import Address


class Source(Protocol):
    """Connects sockets from certain addresses."""

    def check(self) -> None:
        """Called before the start, and again once the process has shed its privileges.

        Raises `net.outgoing.UnusableSource` if this host or this process cannot connect from it now.
        """
        ...

    def connect(self, sock: SocketType, remote: Address, client: Address | None) -> int:
        """Begin to connect a new non-blocking socket to `remote` for `client`, which is None without an IP address.

        Returns what connect(2) would: 0, EINPROGRESS or the error. Where the source cannot be used, that is one of
        this host, as EADDRNOTAVAIL, and is reported.
        """
        ...


@attrs.frozen
class Outbound:
    """What a connection to a back-end begins with, and where it comes from."""

    send_proxy: int = 0
    """Version of the PROXY header that tells the back-end the client's address, 1 or 2; 0 for no header."""
    source: Source | None = None
    """Where to connect from; None for the address that routing chooses."""
    tls: Any = None
    """For TLS to the back-end, a `net.tls_client.ClientTls`; None for plain TCP. The portable carrier's."""


PLAIN: Final = Outbound()
"""A plain connection, from the address that routing chooses."""
