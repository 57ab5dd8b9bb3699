"""Which services are this proxy itself: a back-end that is one of its own listeners would be a loop without an end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from rproxy.net.addresses import Address, unmapped
from rproxy.net.binding import ANY_IPV4, ANY_IPV6
from rproxy.net.own_addresses import ephemeral_ports, local_addresses

LOOK_S: Final = 5.0
"""How long this host's addresses are taken to stay as they are: they come and go, but to look costs a system call."""
BARRED_S: Final = 600.0
"""How long a back-end that was seen to lead back here is refused."""
BARRED_MAX: Final = 1024


class OwnListeners:
    """The TCP ports that this proxy listens on, and what is known to lead to them. `seconds` must be monotonic."""

    def __init__(self, seconds: Callable[[], float], addresses: Callable[[], Iterable[str]] = local_addresses) -> None:
        self._seconds = seconds
        self._look = addresses
        self._ours: frozenset[str] = frozenset()
        self._looked_at = float("-inf")
        self._places: set[Address] = set()
        self._everywhere: set[tuple[int, bool]] = set()
        """Ports, each with whether it is so for IPv6."""
        self._barred: dict[Address, float] = {}
        self._ephemeral = ephemeral_ports()

    def add(self, host: str, port: int, *, ipv6_only: bool = False) -> None:
        """We listen there, with or without the link that an address is good on."""
        if host == ANY_IPV6:
            self._everywhere.add((port, True))
        if host == ANY_IPV4 or (host == ANY_IPV6 and not ipv6_only):
            self._everywhere.add((port, False))
        elif host != ANY_IPV6:
            self._places.add((unmapped(host.partition("%")[0]), port))

    def bar(self, service: Address) -> None:
        """It leads here by way of another proxy: refuse it for `BARRED_S`."""
        if len(self._barred) >= BARRED_MAX:
            self._barred.pop(next(iter(self._barred)))
        self._barred[service] = self._seconds() + BARRED_S

    def leads_here(self, service: Address) -> bool:
        """Whether a connection to it would be one to ourselves."""
        host, port = service[0].partition("%")[0], service[1]
        if (host, port) in self._places or ((port, ":" in host) in self._everywhere and self.is_local(host)):
            return True
        return bool(self._barred) and self._barred.get(service, float("-inf")) > self._seconds()

    def may_meet_itself(self, service: Address) -> bool:
        """Whether a connect to it may be connected to itself: to a port here that is free, and is chosen for it."""
        return service[1] in self._ephemeral and self.is_local(service[0])

    def is_local(self, host: str) -> bool:
        """Whether it is an address of this host, as of `LOOK_S` ago at most."""
        if host.startswith("127.") or host == "::1":
            return True
        now = self._seconds()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            try:
                self._ours = frozenset(self._look())
            except OSError:  # no descriptor left for it, say: as they were
                return host in self._ours
        return host in self._ours
