"""The back-end with the fewest of our sessions."""

from __future__ import annotations

from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.pool.backend import Backend


class LeastConnectionsPolicy(Ranked):
    """Chooses the back-end with the fewest of our own sessions for its weight; equal ones in turn, by weight."""

    def _rank(self, backend: Backend, place: Place) -> Rank:
        counts = backend.counts
        return ((counts.pending + counts.established) * place.step, place.turn)

    def _new_place(self, backend: Backend) -> Place:
        place = super()._new_place(backend)
        place.step = 1 / backend.weight
        return place

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        if backend.slot >= 0:
            self._set_step(self._place(backend), 1 / backend.weight)
        return super().reported(backend, now)
