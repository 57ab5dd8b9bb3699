"""Which of a proxy's addresses an agent registers with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rproxy.net.addresses import Address

ADDRESSES_MAX: Final = 16
"""Further addresses of a name are ignored."""


class ProxyAddresses:
    """The addresses of one proxy's name, tried in turn until the proxy probes from one, which is then kept.

    If the name no longer resolves to the address that is kept, the proxy may have moved: the new addresses are tried
    in turn as well, until it probes from one of them.
    """

    def __init__(self, port: int) -> None:
        """`port` is the UDP port at every address."""
        self.current: Address | None = None
        """The address that probes, or the one whose turn it is; None until a look-up has succeeded."""
        self.is_probing = False
        """Whether the proxy probes, from `current`."""
        self.resolved: tuple[Address, ...] = ()
        """The result of the last successful look-up."""
        self._port = port
        self._moved_turn = -1
        """Index into `resolved` of the address tried last beside `current`."""

    @property
    def _is_confirmed(self) -> bool:
        """Whether the proxy probes from an address that its name still resolves to."""
        return self.is_probing and self.current in self.resolved

    def accepts(self, source: Address) -> bool:
        """Whether a probe from `source` is taken for this proxy's."""
        return source == self.current or (source in self.resolved and not self._is_confirmed)

    def probed(self, source: Address) -> bool:
        """The proxy probes from `source`, which is kept. Returns whether that is a change."""
        if self.is_probing and source == self.current:
            return False
        self.is_probing = True
        self.current = source
        return True

    def probing_stopped(self) -> None:
        """The proxy no longer probes: other addresses are tried in turn, after the current one."""
        self.is_probing = False

    def advance(self) -> None:
        """Try the next address, in the order of the look-up."""
        if self.current in self.resolved:
            self.current = self.resolved[(self.resolved.index(self.current) + 1) % len(self.resolved)]
        elif self.resolved:
            self.current = self.resolved[0]

    def update(self, hosts: Sequence[str]) -> bool:
        """Take over the result of a look-up. Returns whether to register at once, at an address that is new.

        The order alone is no change: resolvers rotate it.
        """
        addresses = tuple((host, self._port) for host in dict.fromkeys(hosts))[:ADDRESSES_MAX]
        if set(addresses) == set(self.resolved):
            return False
        self.resolved, self._moved_turn = addresses, -1
        if self.current in addresses:
            return False
        if not self.is_probing:
            self.advance()
        return True

    def next_targets(self) -> list[Address]:
        """Where to send the next registration: to `current`, and to a new address of a proxy that may have moved."""
        targets = [] if self.current is None else [self.current]
        if self.is_probing and self.resolved and not self._is_confirmed:
            self._moved_turn = (self._moved_turn + 1) % len(self.resolved)
            targets.append(self.resolved[self._moved_turn])
        return targets
