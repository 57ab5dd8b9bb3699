"""What operators set for back-ends: it lasts until they set something else, whatever becomes of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.events import NOTHING, Administered, Events, Weighed
from rproxy.pool.rows import Rows
from rproxy.pool.states import NO_OVERRIDE, Administration, Override, State
from rproxy.pool.static_rows import drains

OVERRIDES_MAX: Final = 16384
"""Beyond, the oldest override of a back-end that has no row is dropped, if there is one."""


@attrs.define(eq=False)
class Overrides:
    """What operators have set for each back-end, by address and service port, whether it has a row or not.

    Both callables are the pool's: `_reported` tells the policy that a back-end has changed, and `_propagate` adds to
    events those that they cause.
    """

    _rows: Rows
    _propagate: Callable[[Events, float], Events]
    _reported: Callable[[Backend, float], Events]
    changes: int = attrs.field(init=False, default=0)
    """How often anything was set."""

    def __iter__(self) -> Iterator[Address]:
        """The back-ends that have an override, in the order of their last changes, the oldest first."""
        return iter(self._rows.overrides)

    def __contains__(self, key: Address) -> bool:
        return key in self._rows.overrides

    def __len__(self) -> int:
        return len(self._rows.overrides)

    def of(self, key: Address) -> Override:
        """What an operator has set for a back-end; `NO_OVERRIDE` if nothing."""
        return self._rows.overrides.get(key, NO_OVERRIDE)

    def administer(self, key: Address, administration: Administration, now: float, unix_time: float = 0.0) -> Events:
        """An operator drains a back-end, or returns it to service; `unix_time` is now, in s.

        After `MAINT`, one that is up starts slowly: it may have been started again. After `DRAIN` it does not.
        """
        override = self.of(key)
        if override.administration is not administration:
            since = 0.0 if administration is Administration.READY else unix_time
            override = attrs.evolve(override, administration=administration, since=since)
        return self._set(key, override, now, Administered)

    def weigh(self, key: Address, weight: int | None, now: float) -> Events:
        """An operator gives a back-end a weight, or, with None, its own one again."""
        return self._set(key, attrs.evolve(self.of(key), weight=weight), now, Weighed)

    def put(self, key: Address, override: Override, now: float) -> Events:
        """Restore an override: from the state file, or from the service that had the back-end before."""
        before = self.of(key)
        kinds: list[type[Administered | Weighed]] = []
        if override.administration is not before.administration:
            kinds.append(Administered)
        if override.weight != before.weight:
            kinds.append(Weighed)
        return self._set(key, override, now, *kinds)

    def _set(self, key: Address, override: Override, now: float, *kinds: type[Administered | Weighed]) -> Events:
        """Replace the override of a back-end. Without a row there are no events."""
        overrides, backend = self._rows.overrides, self._rows.get(key)
        self.changes += 1
        overrides.pop(key, None)
        if override != NO_OVERRIDE:
            self._make_room()
            overrides[key] = override
        if backend is None:
            return NOTHING
        before, backend.override = backend.override.administration, override
        if backend.static is not None and backend.state is not State.DEPARTED:
            backend.draining = drains(backend.static, override)
        if before is Administration.MAINT and override.administration is not before and backend.is_up:
            self._rows.start_slowly(backend, now)
        events: Events = tuple(
            Administered(backend, override.administration)
            if kind is Administered
            else Weighed(backend, override.weight)
            for kind in kinds
        )
        return self._propagate(events + self._rows.update(backend) + self._reported(backend, now), now)

    def _make_room(self) -> None:
        overrides = self._rows.overrides
        absent = (key for key in overrides if self._rows.get(key) is None)
        if len(overrides) >= OVERRIDES_MAX and (oldest := next(absent, None)) is not None:
            del overrides[oldest]
