"""Copies of a pool's back-ends that have sessions of their own, for a policy that chooses without effect."""

from __future__ import annotations

from typing import Final

import attrs

from rproxy.pool.backend import Backend
from rproxy.pool.states import State

_OWN: Final = {"address", "port", "counts", "slot", "name"}
"""Fields of a copy that are not those of its back-end."""
_SHARED: Final = tuple(field.name for field in attrs.fields(Backend) if field.name not in _OWN)


@attrs.define(eq=False)
class Mirrors:
    """The copies by back-end. A copy differs in its sessions alone, and so in whether it is full.

    It shares objects such as the report and the round-trip time with its back-end, which are always current; everything
    else is as it was at the last `update`.
    """

    eligible: list[Backend] = attrs.field(init=False, factory=list)
    """The copies that may get a client, in no order."""
    _copies: dict[Backend, Backend] = attrs.field(init=False, factory=dict)

    def __len__(self) -> int:
        return len(self._copies)

    def get(self, backend: Backend) -> Backend | None:
        """The copy of a back-end, if there is one."""
        return self._copies.get(backend)

    def update(self, backend: Backend) -> Backend:
        """Bring the copy of a back-end up to date and return it. A new one has as many sessions as the back-end."""
        copy = self._copies.get(backend)
        if copy is None:
            copy = self._copies[backend] = Backend(backend.address, backend.port, backend.registration)
            copy.counts.established = backend.connections
        for name in _SHARED:
            setattr(copy, name, getattr(backend, name))
        self._place(copy)
        if backend.state is State.FORGOTTEN:
            del self._copies[backend]
        return copy

    def open(self, copy: Backend) -> None:
        """A session takes it."""
        copy.counts.pending += 1
        self._place(copy)

    def close(self, copy: Backend) -> None:
        """A session on it has ended: one that `open` added, or that it had from the beginning."""
        counts = copy.counts
        if counts.pending:
            counts.pending -= 1
        else:
            counts.established -= 1
        self._place(copy)

    def _place(self, copy: Backend) -> None:
        """Add it to `eligible` or remove it, in constant time: the last one in the list fills the gap."""
        eligible = copy.usable and copy.connections < copy.limit
        if eligible is (copy.slot >= 0):
            return
        if eligible:
            copy.slot = len(self.eligible)
            self.eligible.append(copy)
            return
        last = self.eligible.pop()
        if last is not copy:
            self.eligible[copy.slot] = last
            last.slot = copy.slot
        copy.slot = -1
