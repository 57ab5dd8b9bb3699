"""The report's score of a back-end (figure 4.4). Lower is better."""

from __future__ import annotations

from typing import Final

from rproxy.pool.estimators import UNKNOWN_PERCENT

SATURATED: Final = 100.0
"""The score of a saturated back-end: the report's stand-in for infinity."""
SATURATION: Final = 0.70
"""The share of CPU, memory or loss from which a back-end is saturated."""
TCP_TERM: Final = 0.30 / 10
"""What one established connection adds to the sum."""
TERMS: Final = ("RTT", "TCP", "loss", "CPU", "memory")
"""Names of the terms of the sum."""

_RTT_IDEAL_MS: Final = 20
_LOSS_IDEAL: Final = 0.01
_CPU_IDEAL: Final = 0.1
_MEMORY_IDEAL: Final = 0.1


def terms(
    *, rtt_ms: float, tcp: float, loss: float, cpu: float | None, memory: float | None
) -> tuple[float, float, float, float, float]:
    """What is summed, in the order of `TERMS`: `rtt_ms` is the last sample, `loss` a fraction 0..1, `cpu` and `memory`
    in percent.
    """
    cpu_share = (UNKNOWN_PERCENT if cpu is None else cpu) / 100
    memory_share = (UNKNOWN_PERCENT if memory is None else memory) / 100
    return (
        0.30 * rtt_ms / _RTT_IDEAL_MS,
        TCP_TERM * tcp,
        0.30 * loss / _LOSS_IDEAL,
        0.05 * cpu_share / _CPU_IDEAL,
        0.05 * memory_share / _MEMORY_IDEAL,
    )


def unsaturated(*, rtt_ms: float, tcp: float, loss: float, cpu: float | None, memory: float | None) -> float:
    """The weighted sum of `terms`."""
    return sum(terms(rtt_ms=rtt_ms, tcp=tcp, loss=loss, cpu=cpu, memory=memory))


def is_saturated(threshold: float | None, *, loss: float, cpu: float | None, memory: float | None) -> bool:
    """Whether one of the three is at the threshold (a fraction; None never is). An unknown percentage is not."""
    if threshold is None:
        return False
    return loss >= threshold or (cpu or 0) / 100 >= threshold or (memory or 0) / 100 >= threshold


def score(
    *,
    rtt_ms: float,
    tcp: float,
    loss: float,
    cpu: float | None,
    memory: float | None,
    saturation: float | None = SATURATION,
) -> float:
    """The report's score, with `saturation` as a fraction, or None to disable it."""
    if is_saturated(saturation, loss=loss, cpu=cpu, memory=memory):
        return SATURATED
    return unsaturated(rtt_ms=rtt_ms, tcp=tcp, loss=loss, cpu=cpu, memory=memory)
