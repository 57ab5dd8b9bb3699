"""The report's score of a back-end, shown beside what the policy compares."""

from __future__ import annotations

import attrs

from rproxy.policies.formula import score
from rproxy.pool.backend import Backend


@attrs.define
class ReportScore:
    """The report's score of a back-end now (figure 4.4), whichever policy is in use.

    `saturation` is the fraction of CPU, memory or loss from which a back-end counts as saturated; None for never.
    """

    saturation: float | None = None

    def __call__(self, backend: Backend) -> float:
        return score(
            rtt_ms=backend.rtt_ms,
            tcp=backend.tcp,
            loss=backend.losses.rate,
            cpu=backend.cpu,
            memory=backend.memory,
            saturation=self.saturation,
        )
