"""The back-end with the fewest of our sessions."""

from __future__ import annotations

from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.policies.weights import Weights
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation
from rproxy.wire.pdu import WEIGHT_NORMAL


class _Place(Place):
    """`weight` is the registered one, 0 before the first report."""

    __slots__ = ("weight",)

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.weight = 0


class LeastConnectionsPolicy(Ranked):
    """Chooses the back-end with the fewest of our own sessions for its weight; equal ones in turn, by weight.

    Where registered weights differ, an idle back-end waits for its turn, too: else one of weight 5 would get a client
    whenever all others have one. A turn counts for no more than the sessions that the back-end has since got.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights = Weights()
        self._weighted = False
        """Whether registered weights differ."""

    def _rank(self, backend: Backend, place: Place) -> Rank:
        counts = backend.counts
        load = (counts.pending + counts.established) * place.step
        turn = place.turn
        if not self._weighted:
            return (load, turn)
        due = self._time + load
        return (due if due > turn else turn, load)

    def _new_place(self, backend: Backend) -> _Place:
        place = _Place(backend)
        place.turn = self._time
        place.step = WEIGHT_NORMAL / backend.weight
        return place

    def _dropped(self, place: _Place) -> None:
        self._weights.replace(place.weight, 0)

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        if backend.usable:
            place: _Place = self._place(backend)
            weight = backend.base_weight
            if weight != place.weight:
                self._weights.replace(place.weight, weight)
                place.weight = weight
            self._set_step(place, WEIGHT_NORMAL / backend.weight)
        super().reported(backend, now)
        if self._weights.differ is not self._weighted:
            self._weighted = self._weights.differ
            self._enter_all(self._places)
        return None

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: sessions for a weight of 100; where weights differ, how far its turn is if that is more."""
        value, _ = self.rank(backend)
        return value - self._time if self._weighted else value

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""
        return Explanation(self.value(backend, now), {"sessions": backend.connections, "weight": backend.weight})
