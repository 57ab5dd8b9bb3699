"""Limits on the effects of datagrams, which anyone may send."""

from __future__ import annotations

from typing import Self

import attrs


@attrs.frozen
class Limits:
    """Back-ends that have answered a probe (`confirmed`), that have not, and of either kind on one host.

    And registrations of one instance that may change something, and first probes of all, per second.
    """

    confirmed: int = 1024
    unconfirmed: int = 256
    host: int = 64
    registrations_per_s: float = 1.0
    first_probes_per_s: float = 50.0

    @classmethod
    def for_pool(cls, backends: int) -> Self:
        """Limits for a pool of `backends`. A larger pool than the default fills in the same time."""
        scale = max(1.0, backends / 1024)
        return cls(backends, round(256 * scale), round(64 * scale), first_probes_per_s=50 * scale)
