"""Back-ends in turn, in virtual time: what `round_robin` and `weighted_random` share."""

from __future__ import annotations

from abc import abstractmethod

from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.pool.backend import Backend


class TurnOrder(Ranked):
    """Chooses the back-end whose next turn comes first. `_step` says how far apart a back-end's turns are."""

    def __init__(self) -> None:
        super().__init__()
        self._time = 0.0

    @abstractmethod
    def _step(self, weight: float) -> float:
        """How long after one turn of a back-end its next one comes, in virtual time; 1 / weight on average."""

    def _rank(self, backend: Backend, place: Place) -> Rank:
        if place.turn is None:
            place.turn = self._next_turn(backend)
        return (place.turn[0], 0.0)

    def _next_turn(self, backend: Backend) -> tuple[float, float]:
        """Its next turn from now, and the weight from which that was computed."""
        weight = backend.weight
        return self._time + self._step(weight), weight

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`. A new weight scales the time left until its next turn."""
        if backend.slot >= 0:
            place = self._place(backend)
            if place.turn is not None and place.turn[1] != backend.weight:
                turn, weight = place.turn
                place.turn = self._time + max(0.0, turn - self._time) * weight / backend.weight, backend.weight
        return super().reported(backend, now)

    def opened(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        if backend.slot >= 0:
            place = self._places.get(backend) or self._place(backend)
            place.chosen = next(self._order)
            turn, _ = self._rank(backend, place)
            self._time = max(self._time, turn)
            place.turn = self._next_turn(backend)
