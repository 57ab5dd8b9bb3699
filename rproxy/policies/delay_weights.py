"""The weights of back-ends in the policy `expected-delay`."""

from __future__ import annotations

from abc import ABC
from typing import Final

from rproxy.policies.delay_record import DelayRecord
from rproxy.policies.ranked import Ranked
from rproxy.policies.weights import Weights
from rproxy.pool.backend import Backend
from rproxy.wire.pdu import WEIGHT_NORMAL

NORMAL_FACTOR: Final = 2.0
"""The pool's mean weight may be so many times the one that is taken for normal, or the inverse."""


class DelayWeights(Ranked, ABC):
    """Keeps the weights in each `DelayRecord` relative to a normal one, which is near the pool's mean."""

    def __init__(self) -> None:
        super().__init__()
        self._weights = Weights()
        self._normal_weight: float = WEIGHT_NORMAL
        """The weight of which those of back-ends are multiples."""
        self._weighted = False
        """Whether registered weights differ."""

    def _weigh(self, record: DelayRecord, backend: Backend, weight: float) -> None:
        """Take in its weight, of which slow start's share is a part, and that of the pool."""
        weights = self._weights
        weights.replace(record.registered_weight, backend.base_weight)
        record.registered_weight, record.weight = backend.base_weight, weight
        weights.moved = False
        mean, normal = weights.mean, self._normal_weight
        if weights.differ is not self._weighted or not normal / NORMAL_FACTOR <= mean <= normal * NORMAL_FACTOR:
            self._weighted, self._normal_weight = weights.differ, mean
            for each in self._places.values():
                self._settle_weight(each)
            self._enter_all(self._places)
        self._settle_weight(record)

    def _settle_weight(self, record: DelayRecord) -> None:
        if record.weight:
            inverse = self._normal_weight / record.weight
            record.inverse_weight = 1.0 if inverse == 1 else inverse  # one object for all: records are many
            record.idle = 1 + record.ghosts * inverse if record.ghosts else 1.0
            self._set_step(record, record.inverse_weight)
