"""What makes a back-end's clients wait longer than counts and rates tell: CPU, memory, accept queue, losses, failures.

All factors are 1 where all is well, and multiply a delay.
"""

from __future__ import annotations

from math import prod
from typing import Final

import attrs

from rproxy.policies.delay_record import DelayRecord
from rproxy.policies.own_options import option
from rproxy.policies.penalty import faded, with_another
from rproxy.policies.pool_mean import PoolMean
from rproxy.policies.session_lengths import FORGIVEN_S, HASTY_IN_A_ROW
from rproxy.pool.backend import Backend
from rproxy.pool.states import State

MEMORY_STRENGTH: Final = 4.0
"""At `memory-from`, and more of it for each percentage point above: what needs memory there will wait for the disk."""
MEMORY_HYSTERESIS: Final = 2.0
"""Percentage points below `memory-from` at which memory no longer counts."""
LOAD_SCALE: Final = 10.0
"""An application load of so many percent doubles the delay: an accept queue fills once a service does not keep up."""
LOSS_STRENGTH: Final = 5.0
HASTY_FACTOR: Final = 4.0
"""For a back-end whose sessions end too soon to be believed."""

SAID_AFTER: Final = 20
TOO_SHORT: Final = "its sessions end too soon"
"""Said once so many sessions in a row have been shorter than they can be if they are served, see `HASTY`."""


@attrs.frozen
class BrakeOptions:
    """`memory_from`, `cpu_from` and `loss_from`, in percent: from where memory, CPU and lost probes count."""

    memory_from: float = option(95, 1, 101, "memory in percent from which a back-end is passed over; 101 is never")
    cpu_from: float = option(10, 0, 100, "CPU of other programs in percent from which a back-end counts as slower")
    loss_from: float = option(5, 0, 100, "lost probes in percent from which a back-end counts as slower")


FACTORS: Final = ("CPU", "memory", "service load", "loss", "failures", "too short")
"""What multiplies the delay of a back-end, in the order of `Brake.factors`."""


class Brake:
    """Computes the factors from a back-end's last report and what its sessions met."""

    def __init__(self, options: BrakeOptions) -> None:
        self._options = options
        self._loads = PoolMean()
        self.knows_loads = False
        """Whether any agent reports its service's load."""
        self._memory_reason = f"memory from {options.memory_from:g} %"

    def settle(self, backend: Backend, record: DelayRecord, now: float) -> None:
        """Take in a report that may not be that of a healthy back-end."""
        self._note_load(record, backend.report.load)
        memory, threshold = backend.memory, self._options.memory_from
        record.full = memory >= (threshold - MEMORY_HYSTERESIS if record.full else threshold)
        record.brake = prod(self.factors(backend, record, now))
        record.reason = None
        if record.full:
            record.reason = self._memory_reason
        elif record.hasty_in_a_row >= SAID_AFTER:
            record.reason = TOO_SHORT

    def factors(self, backend: Backend, record: DelayRecord, now: float) -> tuple[float, ...]:
        """As named in `FACTORS`. Memory that an agent does not know is taken for the pool's mean."""
        options = self._options
        loss = backend.losses.rate
        load = self._loads.mean if record.service_load is None else record.service_load
        if backend.state is State.DOWN:  # in a panic it says nothing about the host
            loss = 0.0
        return (
            1 / record.left,
            MEMORY_STRENGTH * (1 + max(0.0, backend.memory - options.memory_from)) if record.full else 1.0,
            1 + load / LOAD_SCALE if load else 1.0,
            1 + LOSS_STRENGTH * loss if loss * 100 > options.loss_from else 1.0,
            1 + faded(record.fail, record.fail_at, now) if record.fail else 1.0,
            HASTY_FACTOR if is_hasty(record) and now - record.ended_at < FORGIVEN_S else 1.0,
        )

    def leave(self, record: DelayRecord) -> None:
        """A back-end has gone."""
        self._note_load(record, None)

    def _note_load(self, record: DelayRecord, load: float | None) -> None:
        self._loads.replace(record.service_load, load)
        record.service_load = load
        self.knows_loads = self._loads.count > 0


def note_failure(record: DelayRecord, now: float) -> float:
    """A session of it failed. Returns by how much its factor rises."""
    before = record.fail
    record.fail = with_another(before, record.fail_at, now)
    record.fail_at = now
    return max(1.0, (1 + record.fail) / (1 + before))


def is_hasty(record: DelayRecord) -> bool:
    """Whether its last sessions ended too soon to be believed."""
    return record.hasty_in_a_row >= HASTY_IN_A_ROW
