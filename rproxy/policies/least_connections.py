"""The back-end with the fewest of our sessions."""

from __future__ import annotations

from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.pool.backend import Backend


class LeastConnectionsPolicy(Ranked):
    """The back-end with the fewest of our own sessions for its weight."""

    def _rank(self, backend: Backend, place: Place) -> Rank:
        return ((backend.pending + backend.established + 1) / backend.weight, 0.0)
