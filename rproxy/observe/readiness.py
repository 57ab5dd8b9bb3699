"""Whether a proxy can serve clients: why it cannot, in lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rproxy.pool.pool import Pool
from rproxy.sessions.service import Service


def faults(services: Sequence[Service], *, stopping: bool) -> Iterator[str]:
    """One line for each service that has no eligible back-end; those that are leaving do not count."""
    if stopping:
        yield "stopping"
    for service in services:
        if not service.is_leaving and not service.pool.eligible:
            yield f"{service.name}: {_why(service.pool)}"


def _why(pool: Pool) -> str:
    if not len(pool):
        return "there are no back-ends"
    if pool.full:
        return f"{pool.full} of {len(pool)} back-ends are full, and no other gets clients"
    return f"none of {len(pool)} back-ends gets clients"
