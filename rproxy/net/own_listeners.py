"""Detects services that lead back to this proxy: as a back-end, each would be an endless loop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from rproxy.net.addresses import Address, is_loopback, unmapped
from rproxy.net.binding import ANY_IPV4, ANY_IPV6
from rproxy.net.own_addresses import ephemeral_ports, local_addresses

ADDRESSES_MAX_AGE_S: Final = 5.0
"""How long this host's addresses are cached: they change, but reading them takes system calls."""
BARRED_S: Final = 600.0
"""How long a back-end that led back here is refused."""
BARRED_MAX: Final = 1024
"""Back-ends that are barred at once; beyond, the oldest bar is lifted."""


class OwnListeners:
    """The TCP ports on which this proxy listens, and the services that lead to them by way of another proxy.

    `seconds` must be monotonic; `addresses` returns this host's IP addresses now, or raises `OSError`.
    """

    def __init__(self, seconds: Callable[[], float], addresses: Callable[[], Iterable[str]] = local_addresses) -> None:
        self._seconds = seconds
        self._read_addresses = addresses
        self._own_addresses: frozenset[str] = frozenset()
        """This host's addresses as of `_read_at`."""
        self._read_at = float("-inf")
        self._addresses: set[Address] = set()
        """Listeners on a single address."""
        self._wildcard_ports: set[tuple[int, bool]] = set()
        """Listeners on all addresses of a family: their port, and whether the family is IPv6."""
        self._barred: OrderedDict[Address, float] = OrderedDict()
        """By service: when the bar is lifted."""
        self._ephemeral = ephemeral_ports()

    def add(self, host: str, port: int, *, ipv6_only: bool = False) -> None:
        """Add a listener of the proxy. `host` may be ``0.0.0.0`` or ``::``, or have a link's index."""
        if host in (ANY_IPV4, ANY_IPV6):
            self._wildcard_ports |= _on_all_addresses(host, port, ipv6_only=ipv6_only)
        else:
            self._addresses.add(_on_one(host, port))

    def remove(self, host: str, port: int, *, ipv6_only: bool = False) -> None:
        """Remove a listener that was added with the same arguments."""
        if host in (ANY_IPV4, ANY_IPV6):
            self._wildcard_ports -= _on_all_addresses(host, port, ipv6_only=ipv6_only)
        else:
            self._addresses.discard(_on_one(host, port))

    def overlaps(self, host: str, port: int, *, ipv6_only: bool = False) -> bool:
        """Whether a listener that was added accepts clients of this one, too, which SO_REUSEPORT permits."""
        if host in (ANY_IPV4, ANY_IPV6):
            taken = self._wildcard_ports | {(number, ":" in single) for single, number in self._addresses}
            return not taken.isdisjoint(_on_all_addresses(host, port, ipv6_only=ipv6_only))
        if "%" in host:  # the same address on another link is another one
            return (port, True) in self._wildcard_ports
        host = unmapped(host)
        return (host, port) in self._addresses or (port, ":" in host) in self._wildcard_ports

    def bar(self, service: Address) -> None:
        """The service leads here by way of another proxy: refuse it for `BARRED_S`."""
        self._barred[service] = self._seconds() + BARRED_S
        if len(self._barred) > BARRED_MAX:
            self._barred.popitem(last=False)

    def leads_here(self, service: Address) -> bool:
        """Whether a connection to the service would come back to this proxy."""
        host, port = service[0].partition("%")[0], service[1]
        if (host, port) in self._addresses or ((port, ":" in host) in self._wildcard_ports and self.is_local(host)):
            return True
        return bool(self._barred) and self._barred.get(service, float("-inf")) > self._seconds()

    def may_self_connect(self, service: Address) -> bool:
        """Whether a connect to the service may end up connected to itself (`is_self_connected`).

        That takes a port of this host that is free and that the kernel may choose for outgoing connections.
        """
        return service[1] in self._ephemeral and self.is_local(service[0])

    def is_local(self, host: str) -> bool:
        """Whether it is an address of this host, as of `ADDRESSES_MAX_AGE_S` ago at most."""
        if is_loopback(host):
            return True
        now = self._seconds()
        if now - self._read_at >= ADDRESSES_MAX_AGE_S:
            self._read_at = now
            try:
                self._own_addresses = frozenset(self._read_addresses())
            except OSError:  # no descriptor is left, say: the last known ones stand
                return host in self._own_addresses
        return host in self._own_addresses


def _on_all_addresses(host: str, port: int, *, ipv6_only: bool) -> set[tuple[int, bool]]:
    """The port, for each family of which a listener on ``0.0.0.0`` or ``::`` accepts clients."""
    return {(port, family) for family in {host == ANY_IPV6, host == ANY_IPV6 and ipv6_only}}


def _on_one(host: str, port: int) -> Address:
    """The address of any other listener, without a link's index."""
    return unmapped(host.partition("%")[0]), port
