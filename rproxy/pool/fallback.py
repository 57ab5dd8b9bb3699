"""The choice of a back-end when the policy fails."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from rproxy.pool.backend import Backend


class NotEligible(Exception):
    """A policy chose something that is no back-end, or one that may not get this client."""


@attrs.define(eq=False)
class Fallback:
    """Eligible back-ends, round robin."""

    _turn: int = attrs.field(init=False, default=0)

    def choose(self, eligible: Sequence[Backend], exclude: Collection[Backend]) -> Backend | None:
        """The next of `eligible`, none of `exclude`; None where there is none."""
        for _ in range(min(len(exclude) + 1, len(eligible))):
            self._turn = (self._turn + 1) % len(eligible)
            if eligible[self._turn] not in exclude:
                return eligible[self._turn]
        return None
