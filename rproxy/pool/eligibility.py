"""Which back-ends may get a client: those that are up, and in a panic those that are down."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from rproxy.pool.backend import Backend, Standing
from rproxy.pool.events import NOTHING, EligibilityChanged, Events, PanicChanged
from rproxy.pool.states import State


@attrs.define(eq=False)
class Eligibility:
    """Keeps `eligible`, in no order, and whether the pool panics.

    While less than `panic_below` (a fraction) of the pool is up, a fault on the path of the probes is likelier than
    that many failed back-ends: those that are down are eligible as well, unless they refuse connections.
    """

    panic_below: float
    eligible: list[Backend] = attrs.field(init=False, factory=list)
    panicking: bool = attrs.field(init=False, default=False)
    _counts: dict[Standing, int] = attrs.field(init=False, factory=lambda: dict.fromkeys(Standing, 0))

    def update(self, backend: Backend, pool: Iterable[Backend]) -> Events:
        """A back-end has changed. If that begins or ends a panic, all of `pool` is updated."""
        standing = _standing(backend)
        if standing is backend.standing:
            return self._place(backend)
        self._counts[backend.standing] -= 1
        self._counts[standing] += 1
        backend.standing = standing
        up, down = self._counts[Standing.UP], self._counts[Standing.DOWN]
        panicking = up < self.panic_below * (up + down)
        if panicking is self.panicking:
            return self._place(backend)
        self.panicking = panicking
        changed = [event for each in pool for event in self._place(each)]
        return (*changed, *self._place(backend), PanicChanged(panicking))

    def _place(self, backend: Backend) -> Events:
        """Add or remove it, in constant time: the last one fills the gap."""
        usable = backend.standing is Standing.DOWN and self.panicking and not backend.health.refusing
        eligible = usable or backend.standing is Standing.UP
        if eligible is (backend.slot >= 0):
            return NOTHING
        if eligible:
            backend.slot = len(self.eligible)
            self.eligible.append(backend)
        else:
            last = self.eligible.pop()
            if last is not backend:
                self.eligible[backend.slot] = last
                last.slot = backend.slot
            backend.slot = -1
        return (EligibilityChanged(backend, eligible),)


def _standing(backend: Backend) -> Standing:
    if not backend.available:
        return Standing.UNCOUNTED
    if backend.is_up:
        return Standing.UP
    return Standing.DOWN if backend.state is State.DOWN else Standing.UNCOUNTED
