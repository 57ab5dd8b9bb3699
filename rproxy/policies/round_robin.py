"""Back-ends in turn, in proportion to their weights."""

from __future__ import annotations

from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation
from rproxy.wire.pdu import WEIGHT_NORMAL


class RoundRobinPolicy(Ranked):
    """Weighted round robin: chooses the back-end whose next turn comes first; its turns are 1 / weight apart."""

    def _rank(self, backend: Backend, place: Place) -> Rank:
        return (place.turn, 0.0)

    def _new_place(self, backend: Backend) -> Place:
        place = Place(backend)
        place.step = 1 / backend.weight
        place.turn = self._time + place.step
        return place

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`. A new weight scales the time left until its next turn."""
        if backend.usable:
            self._set_step(self._place(backend), 1 / backend.weight)
        return super().reported(backend, now)

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: how far its next turn is, where the turns of a back-end of weight 100 are 1 apart."""
        place: Place | None = self._places.get(backend)
        turn = self._time if place is None else place.turn
        return max(0.0, turn - self._time) * WEIGHT_NORMAL

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""
        return Explanation(self.value(backend, now), {"weight": backend.weight})
