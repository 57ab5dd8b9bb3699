"""PROXY headers that clients' connections begin with: who may send them, and what becomes of the other clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from twisted.logger import Logger

from rproxy.net.addresses import Address, Network, written
from rproxy.net.networks import Networks, packed
from rproxy.sessions.endings import Ending
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit

HEADER_S: Final = 5.0
"""For the whole header, from accept on."""
_REASONS: Final = {
    Ending.UNTRUSTED: "is not of proxy-protocol-from",
    Ending.BAD_HEADER: "sent a bad PROXY header",
    Ending.HEADER_TIMEOUT: f"sent no whole PROXY header within {HEADER_S:g} s",
}


class ProxyHeaders:
    """The rules of one service. A carrier asks `trusts` before it reads a header, and calls `refused` for each client
    that it turns away, which logs it at most every `LOG_EVERY_S` for each reason.
    """

    log = Logger()

    def __init__(self, networks: Sequence[Network], seconds: Callable[[], float]) -> None:
        """`seconds` is a monotonic clock."""
        self._networks = Networks(networks)
        self._seconds = seconds
        self._lines = RateLimit.once_in(LOG_EVERY_S)
        self._unlogged: Counter[Ending] = Counter()

    def trusts(self, peer: Address | None) -> bool:
        """Whether a connection from `peer` may begin with a header.

        None is a client of a Unix socket: the permissions of that file are the rule for those.
        """
        return peer is None or packed(peer[0]) in self._networks

    def refused(self, ending: Ending, peer: Address | None, why: str = "") -> None:
        """Log a client that is turned away; `why` is the flaw of its header."""
        if not self._lines.admit(self._seconds(), ending):
            self._unlogged[ending] += 1
            return
        more = self._unlogged.pop(ending, 0)
        self.log.warn(
            "{peer} {reason}{why}: refused{more}",
            peer="a client" if peer is None else written(peer),
            reason=_REASONS[ending],
            why=f": {why}" if why else "",
            more=f", and so were {more} more since the last such line" if more else "",
        )
