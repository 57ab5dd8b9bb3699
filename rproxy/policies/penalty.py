"""What failures of a back-end's sessions count for, and for how long."""

from __future__ import annotations

from math import exp
from typing import Final

from rproxy.pool.backend import Backend

PENALTY_S: Final = 2.5
"""As long as it was until the next of the periodic probes, on average. While clients come, reports follow each other
every 0.1 s.
"""
FAILURES_FADE_S: Final = 10.0
"""Time constant with which failures are forgotten, in seconds: not only until the next report."""
FAILURES_MAX: Final = 1000.0


def is_penalised(backend: Backend, failed_at: float, now: float) -> bool:
    """Whether a report at `now` leaves the failure noted at `failed_at` as it is.

    An answered probe makes up for a lost one. It says nothing about the service: a failed connect counts for
    `PENALTY_S`, unless a later session was served.
    """
    return backend.health.refusals > 0 and now - failed_at < PENALTY_S


def faded(failures: float, failed_at: float, now: float) -> float:
    """What is left at `now` of `failures`, as of `failed_at`."""
    return failures * exp((failed_at - now) / FAILURES_FADE_S)


def with_another(failures: float, failed_at: float, now: float) -> float:
    """Failures as of `now`, when there is one more: each counts for more than all those before."""
    return min(2 * faded(failures, failed_at, now) + 1, FAILURES_MAX)
