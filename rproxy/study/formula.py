"""The report's formula (figure 4.4) with every weight an option: for its ablation, which the report's last chapter asks
for. Only studies use it.
"""

from __future__ import annotations

from typing import Final

import attrs

from rproxy.policies.formula import SATURATION, is_saturated
from rproxy.policies.own_options import option
from rproxy.policies.report import RTT_NOISE_MS, SCORE_RESOLUTION, ReportPolicy, foreign, unclaimed
from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.wire.pdu import WEIGHT_NORMAL

_SATURATED: Final = 1e13
_ROUNDING: Final = 1e-6


@attrs.frozen
class FormulaOptions:
    """The weights of the terms, by default the report's, and the saturation threshold."""

    rtt: float = option(0.30, 0, 100, "weight of 20 ms of round trip")
    tcp: float = option(0.30, 0, 100, "weight of 10 connections")
    loss: float = option(0.30, 0, 100, "weight of 1 % of lost probes")
    cpu: float = option(0.05, 0, 100, "weight of 10 % of CPU")
    memory: float = option(0.05, 0, 100, "weight of 10 % of memory")
    saturation: float | None = option(
        SATURATION, 0.001, 1, "share of CPU, memory or loss that rules a back-end out", may_be_off=True
    )


class FormulaPolicy(ReportPolicy):
    """As `ReportPolicy`, with those weights."""

    def __init__(self, options: FormulaOptions = FormulaOptions()) -> None:
        super().__init__()
        self._factors = options

    def _figures(self, backend: Backend) -> tuple[float, float, float, float, bool]:
        factors, report = self._factors, backend.report
        loss = 0.0 if backend.state is State.DOWN else backend.losses.rate
        cpu, memory = backend.cpu, backend.memory
        own = unclaimed(backend)
        total = (
            factors.rtt * max(backend.rtt.last_ms or 0.0, RTT_NOISE_MS) / 20
            + factors.tcp * own / 10
            + factors.loss * loss / 0.01
            + factors.cpu * cpu / 10
            + factors.memory * memory / 10
        )
        steps = total / SCORE_RESOLUTION + _ROUNDING
        if is_saturated(factors.saturation, loss=loss, cpu=cpu, memory=memory):
            steps += _SATURATED
        term = factors.tcp / 10 / SCORE_RESOLUTION * WEIGHT_NORMAL / backend.base_weight
        unknown = report.cpu is None or report.memory is None or report.tcp is None
        return steps, term, term * (1 / backend.share - 1), foreign(backend) - own, unknown
