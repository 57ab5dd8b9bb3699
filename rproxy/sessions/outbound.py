"""How a service's sessions connect to a back-end."""

from __future__ import annotations

from typing import Any, Final

import attrs


@attrs.frozen
class Outbound:
    """What a connection to a back-end begins with, and where it comes from."""

    send_proxy: int = 0
    """Version of the PROXY header that tells the back-end the client's address, 1 or 2; 0 for no header."""
    sources: tuple[str, ...] = ()
    """IP addresses of this host to connect from, taken in turn; without any, routing decides."""
    transparent: bool = False
    """Whether to connect from the client's own address (IP_TRANSPARENT)."""
    tls: Any = None
    """For TLS to the back-end: what makes its connection's TLS state; None for plain TCP. The portable carrier's."""

    @property
    def needs_client(self) -> bool:
        """Whether the client's address matters to it."""
        return self.send_proxy > 0 or self.transparent


PLAIN: Final = Outbound()
"""A plain connection, from the address that routing chooses."""
