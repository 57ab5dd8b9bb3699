"""Keeps the faults of a policy, which may be a user's own, from clients and from the process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Policy


class NotEligible(Exception):
    """A policy chose something that is no back-end, or one that may not get this client."""


@attrs.define(eq=False)
class Guard:
    """Asks a policy that may raise anything, SystemExit included, and return anything.

    `complain` is called while the exception is being handled. Then the eligible back-ends are chosen in turn.
    (Ctrl-C raises nothing here: the reactor handles the signal.)
    """

    complain: Callable[[], None]
    _turn: int = attrs.field(init=False, default=0)

    def choose(
        self, policy: Policy, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend]
    ) -> Backend | None:
        """The policy's choice if it is good, else the next eligible back-end; None where there is none."""
        try:
            chosen = policy.choose(eligible, client, exclude)
            if chosen is None or (eligible[chosen.slot] is chosen and chosen not in exclude):
                return chosen
            raise NotEligible(f"the policy chose {chosen.name}, which may not get this client")
        except BaseException:
            self.complain()
            return self._any(eligible, exclude)

    def _any(self, eligible: Sequence[Backend], exclude: Collection[Backend]) -> Backend | None:
        for _ in range(min(len(exclude) + 1, len(eligible))):
            self._turn = (self._turn + 1) % len(eligible)
            if eligible[self._turn] not in exclude:
                return eligible[self._turn]
        return None
