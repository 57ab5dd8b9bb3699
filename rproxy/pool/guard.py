"""What keeps a policy that fails from harming clients; the calls of it for each client are in `pool`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from math import isfinite

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import OWN_RULE, Comparison
from rproxy.pool.events import NOTHING, Events, PassedOver
from rproxy.pool.policy import NO_EXPLANATION, Explanation, Policy

Compare = Callable[[Sequence[Backend], Address | None, Collection[Backend], float, int], Comparison[Backend] | None]
"""`Guard.compare`."""


@attrs.define(eq=False)
class Guard:
    """Calls `policy`. What it raises is counted, and the function that was given as `complain` is called meanwhile.

    A policy may be third-party code: it may raise anything, SystemExit included, and return anything. (Ctrl-C raises
    nothing here: it is a signal that the reactor handles.)
    """

    policy: Policy
    _complain: Callable[[], None]
    failures: int = 0
    """How often the policy has raised something, or returned what it must not."""

    def complain(self) -> None:
        """To be called while an exception of the policy is being handled."""
        self.failures += 1
        self._complain()

    def failed(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        try:
            self.policy.failed(backend, now)
        except BaseException:
            self.complain()

    def explain(self, backend: Backend, now: float) -> Explanation:
        """What the policy compares for a back-end now, as floats; `NO_EXPLANATION` if that fails."""
        try:
            explained = self.policy.explain(backend, now)
            terms = {str(name): float(term) for name, term in explained.terms.items()}
            return Explanation(float(explained.value), terms)
        except BaseException:
            self.complain()
            return NO_EXPLANATION

    def value(self, backend: Backend, now: float) -> float | None:
        """The value of `explain` alone; None if that fails or is no number. For every session: see `Comparing`."""
        try:
            value = getattr(self.policy, "value", None)
            found = float(self.policy.explain(backend, now).value if value is None else value(backend, now))
            return found if isfinite(found) else None
        except BaseException:
            self.complain()
            return None

    def compare(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float, most: int
    ) -> Comparison[Backend] | None:
        """See `comparison_of`; None if that fails."""
        try:
            return comparison_of(self.policy, eligible, client, exclude, now, most)
        except BaseException:
            self.complain()
            return None

    def reported(self, backend: Backend, now: float) -> Events:
        """Notify the policy that a back-end has changed, and note whether it is passed over for that."""
        reason = ""
        try:
            reason = str(self.policy.reported(backend, now) or "")
        except BaseException:
            self.complain()
        if reason == backend.passed_over:
            return NOTHING
        backend.passed_over = reason
        return (PassedOver(backend, reason),)


class NotEligible(Exception):
    """A policy chose something that is no back-end, or one that may not get this client."""


@attrs.define(eq=False)
class Fallback:
    """Chooses when the policy fails: eligible back-ends, round robin."""

    _turn: int = attrs.field(init=False, default=0)

    def choose(self, eligible: Sequence[Backend], exclude: Collection[Backend]) -> Backend | None:
        """The next of `eligible`, none of `exclude`; None where there is none."""
        for _ in range(min(len(exclude) + 1, len(eligible))):
            self._turn = (self._turn + 1) % len(eligible)
            if eligible[self._turn] not in exclude:
                return eligible[self._turn]
        return None


def comparison_of(
    policy: Policy,
    eligible: Sequence[Backend],
    client: Address | None,
    exclude: Collection[Backend],
    now: float,
    most: int,
) -> Comparison[Backend]:
    """See `Comparing`. Of a policy that tells no comparison, the values of the first `most` candidates.

    Raises what the policy raises.
    """
    compare = getattr(policy, "compare", None)
    if compare is not None:
        comparison: Comparison[Backend] = compare(eligible, client, exclude, now, most)
        return comparison
    candidates = list(islice((each for each in eligible if each not in exclude), most))
    keys = [(float(policy.explain(each, now).value),) for each in candidates]
    more = len(eligible) - len(candidates) - sum(each.eligible for each in exclude)
    return Comparison(OWN_RULE, candidates, keys, more=more)
