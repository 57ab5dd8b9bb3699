"""Calls of the policy that may go wrong without harm to clients; those for each client are in `pool`."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from rproxy.pool.backend import Backend
from rproxy.pool.events import NOTHING, Events, PassedOver
from rproxy.pool.policy import NO_EXPLANATION, Explanation, Policy


@attrs.define(eq=False)
class Guard:
    """Calls `policy`; `complain` is called while an exception of it is being handled.

    A policy may be third-party code: it may raise anything, SystemExit included, and return anything. (Ctrl-C raises
    nothing here: it is a signal that the reactor handles.)
    """

    policy: Policy
    complain: Callable[[], None]

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

    def reported(self, backend: Backend, now: float) -> Events:
        """Notify the policy that a back-end has changed, and note whether it is passed over for that."""
        reason = ""
        try:
            reason = self.policy.reported(backend, now) or ""
        except BaseException:
            self.complain()
        if reason == backend.passed_over:
            return NOTHING
        backend.passed_over = reason
        return (PassedOver(backend, reason),)
