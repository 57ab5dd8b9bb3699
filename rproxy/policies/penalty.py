"""How long a back-end comes after all others once a session of it has failed."""

from __future__ import annotations

from typing import Final

from rproxy.pool.backend import Backend

PENALTY_S: Final = 2.5
"""As long as it was until the next of the periodic probes, on average. While clients come, reports follow each other
every 0.1 s.
"""


def is_penalised(backend: Backend, failed_at: float, now: float) -> bool:
    """Whether a report at `now` leaves the failure noted at `failed_at` as it is.

    An answered probe makes up for a lost one. It says nothing about the service: a failed connect counts for
    `PENALTY_S`, unless a later session was served.
    """
    return backend.health.refusals > 0 and now - failed_at < PENALTY_S
