"""Back-ends in turn: the weighted round robin, and the weighted random choice."""

from __future__ import annotations

from collections.abc import Callable

from rproxy.policies.ranked import Place, Rank, Ranked
from rproxy.pool.backend import Backend


class TurnPolicy(Ranked):
    """Every back-end has its next turn on one virtual time line; `step` says how far ahead the turn after it lies.

    Equal steps of 1/weight make a weighted round robin. Exponential steps of that mean make the weighted random
    choice: the next event of independent Poisson processes falls to each in proportion to its rate, whatever came
    before.
    """

    def __init__(self, step: Callable[[float], float]) -> None:
        super().__init__()
        self._step = step
        self._time = 0.0

    def _rank(self, backend: Backend, place: Place) -> Rank:
        if place.own is None:
            place.own = self._turn(backend)
        return (place.own[0], 0.0)

    def _turn(self, backend: Backend) -> tuple[float, float]:
        """Its next turn from now, and the weight for which it was drawn."""
        return self._time + self._step(backend.weight), backend.weight

    def reported(self, backend: Backend) -> None:
        if backend.slot >= 0:
            place = self._place(backend)
            if place.own is not None and place.own[1] != backend.weight:
                turn, weight = place.own
                place.own = self._time + max(0.0, turn - self._time) * weight / backend.weight, backend.weight
        super().reported(backend)

    def opened(self, backend: Backend) -> None:
        super().opened(backend)
        if backend.slot >= 0:
            place = self._place(backend)
            turn, _ = self._rank(backend, place)
            self._time = max(self._time, turn)
            place.own = self._turn(backend)
