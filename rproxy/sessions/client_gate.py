"""Which clients a service takes, by their networks, and how many of each: a `Gate`.

A client is an IPv4 address, or an IPv6 network of 64 bits, which is what one host can usually choose from.
"""

from __future__ import annotations

import socket
from collections import Counter
from enum import StrEnum
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.net.addresses import Network
from rproxy.net.networks import Networks, packed
from rproxy.timing.frequent import Frequent
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit
from rproxy.timing.rate_table import RateTable
from rproxy.timing.throttle import Throttle

FREQUENT_MAX: Final = 128
"""Refused clients that are counted one by one between two log lines."""
_NETWORK_BYTES: Final = 8
"""Of an IPv6 address: its network of 64 bits."""


class Refusal(StrEnum):
    """Why a client is refused: the key of the rule, which is also the name of a counter."""

    DENIED = "deny"
    NOT_OF_CLIENTS = "clients"
    TOO_MANY = "max-connections-per-client"
    TOO_OFTEN = "connections-per-second-per-client"

    __hash__ = str.__hash__  # Enum's own is Python code


@attrs.frozen
class ClientRules:
    """Whom a service takes, and how many of each."""

    clients: tuple[Network, ...] = ()
    """Empty for any."""
    deny: tuple[Network, ...] = ()
    """Refused even if they are of `clients`."""
    sessions_max: int | None = None
    """Of one client at once; None for no limit."""
    rate: float | None = None
    """Of one client's new sessions a second, as many of them at once; None for no limit."""

    @property
    def are_none(self) -> bool:
        """Whether every client is taken."""
        return self == _NONE


_NONE: Final = ClientRules()


class ClientGate:
    """Counts the sessions of each client, and refuses what `apply` has been told last to refuse.

    The table of sessions has an entry for each client that has any, and so no more than the process may have sessions.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, rules: ClientRules) -> None:
        self._seconds = clock.seconds
        self._sessions: dict[bytes, int] = {}
        self._rates: RateTable | None = None
        self.refused: Counter[str] = Counter()
        self._worst = Frequent[bytes](FREQUENT_MAX)
        self._logged: Counter[str] = Counter()
        """`refused` as of the last line."""
        self._throttle = Throttle(clock, RateLimit.once_in(LOG_EVERY_S))
        self.apply(rules)

    def apply(self, rules: ClientRules) -> None:
        """Refuse clients by these rules from now on. Sessions go on, and stay counted."""
        self._clients, self._denied = Networks(rules.clients), Networks(rules.deny)
        self._sessions_max = rules.sessions_max
        if self._rates is None or self._rates.rate != rules.rate:
            self._rates = None if rules.rate is None else RateTable(rules.rate)

    def admit(self, host: str) -> bool:
        """As `Gate`."""
        address = packed(host)
        client = _client(address)
        refusal = self._refusal(address, client)
        if refusal is not None:
            self._refuse(refusal, client)
            return False
        self._sessions[client] = self._sessions.get(client, 0) + 1
        return True

    def _refusal(self, address: bytes, client: bytes) -> Refusal | None:
        if self._denied and address in self._denied:
            return Refusal.DENIED
        if self._clients and address not in self._clients:
            return Refusal.NOT_OF_CLIENTS
        if self._sessions_max is not None and self._sessions.get(client, 0) >= self._sessions_max:
            return Refusal.TOO_MANY
        if self._rates is not None and not self._rates.admit(self._seconds(), client):
            return Refusal.TOO_OFTEN
        return None

    def count(self, host: str) -> None:
        """As `Gate`."""
        client = _client(packed(host))
        self._sessions[client] = self._sessions.get(client, 0) + 1

    def leave(self, host: str) -> None:
        """As `Gate`."""
        client = _client(packed(host))
        left = self._sessions[client] - 1
        if left:
            self._sessions[client] = left
        else:
            del self._sessions[client]

    def _refuse(self, refusal: Refusal, client: bytes) -> None:
        self.refused[refusal.value] += 1
        self._worst.add(client)
        self._throttle.say(None, self._log)

    def _log(self, times: int) -> None:
        reasons = self.refused - self._logged
        self._logged = self.refused.copy()
        self.log.warn(
            "{count} client(s) refused: {reasons}{worst}",
            count=times,
            reasons=", ".join(f"{reason} ({count})" for reason, count in reasons.most_common()),
            worst=self._worst_text(),
        )
        self._worst = Frequent[bytes](FREQUENT_MAX)

    def _worst_text(self) -> str:
        top = self._worst.top()
        if top is None:
            return ""
        client, least, most = top
        return f"; most often {_written(client)} ({least}{'' if least == most else ' or more'})"

    def stop(self) -> None:
        """Log what has been refused since the last line. May be called twice."""
        self._throttle.flush()
        self._throttle.stop()


def _client(address: bytes) -> bytes:
    """What counts as one client."""
    return address[:_NETWORK_BYTES] if len(address) > _NETWORK_BYTES else address


def _written(client: bytes) -> str:
    if len(client) == _NETWORK_BYTES:
        return f"{socket.inet_ntop(socket.AF_INET6, client.ljust(16, bytes(1)))}/{8 * _NETWORK_BYTES}"
    return socket.inet_ntop(socket.AF_INET, client) if client else "?"
