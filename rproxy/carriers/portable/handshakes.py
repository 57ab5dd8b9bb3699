"""TLS handshakes with clients that are not complete yet: limited in time and in number."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from rproxy.sessions.capacity import Capacity
from rproxy.sessions.session import Session
from rproxy.timing.wheel import Wheel

HANDSHAKE_S: Final = 10.0
"""For a client's whole TLS handshake, and for its close_notify when it is refused."""
_SHARE: Final = 0.5
"""Most of the process' sessions that may be handshakes: those who never complete theirs leave room for others."""


class Client(Hashable, Protocol):
    """What a handshake is to know of its client."""

    deadlines: Wheel
    session: Session
    transport: Any

    def client_address(self) -> str:
        """As `Link`."""
        ...


class Handshakes:
    """The clients whose handshake is not complete. Beyond the limit, the one that has taken longest is reset."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._clients: dict[Client, bool] = {}
        """The oldest first; all True."""
        self._ended: dict[Client, str] = {}
        """Those that were reset here and are not lost yet, each with the reason."""

    def __len__(self) -> int:
        return len(self._clients)

    def begin(self, client: Client) -> None:
        clients = self._clients
        if len(clients) >= max(_SHARE * self._capacity.sessions_max, 1):
            self._end(next(iter(clients)), "too many others began one meanwhile")
        clients[client] = True
        client.deadlines.arm(client, HANDSHAKE_S, lambda: self._end(client, f"it took more than {HANDSHAKE_S:.0f} s"))

    def _end(self, client: Client, reason: str) -> None:
        del self._clients[client]
        self._ended[client] = reason
        client.transport.abortConnection()

    def completed(self, client: Client) -> None:
        del self._clients[client]
        client.deadlines.disarm(client)

    def lost(self, client: Client, error: Failure) -> bool:
        """A client's connection was lost; returns whether its handshake was not complete. Reports why it failed."""
        reason = self._ended.pop(client, "")
        if not reason and not self._clients.pop(client, False):
            return False
        if not reason and not error.check(ConnectionDone, ConnectionLost):  # who just leaves looks whether it is up
            reason = _reason_of(error)
        if reason and client.session.ending is None:
            client.session.service.tls_failures.with_client(client.client_address(), reason)
        return True


def _reason_of(error: Failure) -> str:
    from rproxy.net.tls_contexts import reason_of  # needs pyOpenSSL, which is there where TLS is

    return reason_of(error.value)
