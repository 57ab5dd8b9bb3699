"""An agent's dependencies on its process and host, which tests replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from rproxy.net.addresses import Address

Resolve = Callable[[str], "Deferred[Sequence[str]]"]
"""Looks up a host name: fires with its IP addresses in text, best first; fails while there are none. Cancellable."""

OwnAddress = Callable[[Address, str], str]
"""This host's IP address as the proxy at the first argument sees it.

The second argument is the local address that the proxy sent its probe to, empty if unknown. Raises `OSError` while
there is no route to the proxy.
"""


@attrs.frozen
class Environment:
    """`clock` must be monotonic; `jitter` draws from 0..1; `own_address` is needed for keyed PDUs only."""

    clock: IReactorTime
    resolve: Resolve
    jitter: Callable[[], float]
    own_address: OwnAddress | None = None
