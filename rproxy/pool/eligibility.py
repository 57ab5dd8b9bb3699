"""Which back-ends may get a client: those that are up, and in a panic those that are down, unless they are full."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, inf

import attrs

from rproxy.pool.backend import Backend, Standing
from rproxy.pool.events import NOTHING, EligibilityChanged, Events, PanicChanged
from rproxy.pool.states import State


@attrs.define(eq=False)
class Eligibility:
    """Keeps `eligible`, in no order, and whether the pool panics.

    While less than `panic_below` (a fraction) of the pool is up, a fault on the path of the probes is likelier than
    that many failed back-ends: those that are down are eligible as well, unless they refuse connections.

    A back-end with as many sessions as it may have is full: it is as healthy as before, and gets no client until a
    session on it ends. After it was down, slow start's share is also that of its limit, so that waiting clients do not
    all come at once.
    """

    panic_below: float
    each: int | None = attrs.field(init=False, default=None)
    """The limit of every back-end that has none of its own; None for no limit."""
    full: int = attrs.field(init=False, default=0)
    """Back-ends that may get clients, but are full."""
    limited: int = attrs.field(init=False, default=0)
    """Back-ends that may get clients, and have a limit: those that are full, and those that can be."""
    waiting: int = attrs.field(init=False, default=0)
    """Clients that wait for one of these."""
    eligible: list[Backend] = attrs.field(init=False, factory=list)
    panicking: bool = attrs.field(init=False, default=False)
    _counts: dict[Standing, int] = attrs.field(init=False, factory=lambda: dict.fromkeys(Standing, 0))

    def update(self, backend: Backend, pool: Iterable[Backend]) -> Events:
        """A back-end has changed. If that begins or ends a panic, all of `pool` is updated."""
        limit = self._limit(backend)
        if backend.usable:
            self.limited += (limit < inf) - (backend.limit < inf)
        backend.limit = limit
        standing = _standing(backend)
        if standing is backend.standing:
            return self.place(backend)
        self._counts[backend.standing] -= 1
        self._counts[standing] += 1
        backend.standing = standing
        up, down = self._counts[Standing.UP], self._counts[Standing.DOWN]
        panicking = up < self.panic_below * (up + down)
        if panicking is self.panicking:
            return self.place(backend)
        self.panicking = panicking
        changed = [event for each in pool for event in self.place(each)]
        return (*changed, *self.place(backend), PanicChanged(panicking))

    def _limit(self, backend: Backend) -> float:
        own = backend.max_connections
        most = (self.each if own is None else own) or inf
        if backend.share < 1 and backend.health.hold_s and backend.is_up and most < inf:
            return max(1, int(most * backend.share))
        return most

    def place(self, backend: Backend) -> Events:
        """Its standing or its sessions have changed: add it to `eligible` or remove it, in constant time.

        That it is full is no event, since sessions fill back-ends and free them all the time; that it no longer is, is.
        """
        usable = backend.standing is Standing.DOWN and self.panicking and not _refuses(backend)
        usable = usable or backend.standing is Standing.UP
        counts = backend.counts
        full = usable and counts.pending + counts.established >= backend.limit
        eligible, was_eligible, was_full = usable and not full, backend.slot >= 0, backend.usable and backend.slot < 0
        if eligible is was_eligible and full is was_full:
            return NOTHING
        self.full += full - was_full
        if backend.limit < inf:
            self.limited += usable - backend.usable
        backend.usable = usable
        if eligible is not was_eligible:
            self._move(backend, eligible)
        return NOTHING if full else (EligibilityChanged(backend, eligible),)

    def _move(self, backend: Backend, eligible: bool) -> None:
        """The last one fills the gap."""
        if eligible:
            backend.slot = len(self.eligible)
            self.eligible.append(backend)
        else:
            last = self.eligible.pop()
            if last is not backend:
                self.eligible[backend.slot] = last
                last.slot = backend.slot
            backend.slot = -1

    def claimed(self, backend: Backend) -> int:
        """Our sessions on it; if it is full, also its equal share of the waiting clients, rounded up.

        These come as soon as there is room, so other proxies are told of them as sessions.
        """
        return backend.connections + (ceil(self.waiting / self.full) if backend.usable and backend.slot < 0 else 0)


def _standing(backend: Backend) -> Standing:
    if not backend.available:
        return Standing.UNCOUNTED
    if backend.is_up:
        return Standing.UP
    return Standing.DOWN if backend.state is State.DOWN else Standing.UNCOUNTED


def _refuses(backend: Backend) -> bool:
    """Whether connects to a back-end that is down fail: those of sessions have, or the last check was refused."""
    return backend.health.refusing or (backend.static is not None and backend.static.refuses)
