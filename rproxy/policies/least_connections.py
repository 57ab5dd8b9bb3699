"""The back-end with the fewest of our sessions."""

from __future__ import annotations

from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.pool.backend import Backend


class LeastConnectionsPolicy(Ranked):
    """Chooses the back-end with the fewest of our own sessions for its weight."""

    def _rank(self, backend: Backend, place: Place) -> Rank:
        counts = backend.counts
        return ((counts.pending + counts.established + 1) / (backend.registration.weight * backend.share), 0.0)
