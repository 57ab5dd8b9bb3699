"""Which back-ends may get a client: those that are up, and in a panic those that are down."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from rproxy.pool.backend import Backend, Standing
from rproxy.pool.states import State


@attrs.define(eq=False)
class Eligibility:
    """Keeps `eligible`, in no order, and counts the pool.

    While the share of the pool that is up is below `panic_below`, rather the network for the probes is at fault than
    so many back-ends: what is down is eligible, too, unless it refuses connections.
    """

    panic_below: float
    eligible: list[Backend] = attrs.field(init=False, factory=list)
    seated: Callable[[], None] = attrs.field(init=False, default=lambda: None)
    """Called whenever a back-end has become eligible, in the middle of a change."""
    panicking: bool = attrs.field(init=False, default=False)
    _counts: dict[Standing, int] = attrs.field(init=False, factory=lambda: dict.fromkeys(Standing, 0))

    def settle(self, backend: Backend, pool: Iterable[Backend]) -> None:
        """A back-end has changed; where a panic begins or ends by that, so has the whole `pool`."""
        standing = _standing(backend)
        if standing is not backend.standing:
            self._counts[backend.standing] -= 1
            self._counts[standing] += 1
            backend.standing = standing
            up, down = self._counts[Standing.UP], self._counts[Standing.DOWN]
            panicking = up < self.panic_below * (up + down)
            if panicking is not self.panicking:
                self.panicking = panicking
                for each in pool:
                    self._seat(each)
        self._seat(backend)

    def _seat(self, backend: Backend) -> None:
        """In or out, O(1): the last one fills a gap."""
        usable = backend.standing is Standing.DOWN and self.panicking and not backend.refusing
        if usable or backend.standing is Standing.UP:
            if backend.slot < 0:
                backend.slot = len(self.eligible)
                self.eligible.append(backend)
                self.seated()
        elif backend.slot >= 0:
            last = self.eligible.pop()
            if last is not backend:
                self.eligible[backend.slot] = last
                last.slot = backend.slot
            backend.slot = -1


def _standing(backend: Backend) -> Standing:
    if not backend.available:
        return Standing.ASIDE
    if backend.is_up:
        return Standing.UP
    return Standing.DOWN if backend.state is State.DOWN else Standing.ASIDE
