"""Probes on their way, by their tokens, and what became of those that are not."""

from __future__ import annotations

from collections import OrderedDict

import attrs

from rproxy.pool.admission import Refusal
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import Probe
from rproxy.pool.unconfirmed import OUTSTANDING_MAX
from rproxy.timing.rate_limit import trim


@attrs.define(eq=False)
class Outstanding:
    """Each probe is here once from when it leaves, and in its back-end's `outstanding`, until it is ended."""

    open: dict[int, Probe] = attrs.field(init=False, factory=dict)
    ended: OrderedDict[int, Refusal] = attrs.field(init=False, factory=OrderedDict)
    """What one more answer to it would be."""

    def add(self, probe: Probe) -> None:
        self.open[probe.request.token] = probe
        probe.backend.outstanding.add(probe.request.token)

    def end(self, probe: Probe, afterwards: Refusal, remembered: int) -> None:
        """It is answered or lost; so many of these are remembered."""
        token = probe.request.token
        del self.open[token]
        probe.backend.outstanding.discard(token)
        self.ended[token] = afterwards
        trim(self.ended, remembered)

    def supersede(self, probe: Probe, remembered: int) -> None:
        """Its answer says who the agent is: what was asked of others before does not count any more."""
        for token in list(probe.backend.outstanding):
            other = self.open[token]
            if other.sent_at <= probe.sent_at and not other.registration.same_agent(probe.registration):
                self.end(other, Refusal.UNKNOWN, remembered)

    def forget(self, backend: Backend) -> None:
        """All of a back-end's: nobody will ever ask for them."""
        for token in backend.outstanding:
            del self.open[token]
        backend.outstanding.clear()

    def admits(self, backend: Backend, registration: Registration) -> bool:
        """Whether one more may leave: none to this agent is on its way, and few are in all."""
        return len(backend.outstanding) < OUTSTANDING_MAX and not self.asks(backend, registration)

    def asks(self, backend: Backend, registration: Registration) -> bool:
        """Whether a probe to this agent is on its way."""
        return any(self.open[token].registration.same_agent(registration) for token in backend.outstanding)

    def instances(self, backend: Backend) -> set[int]:
        """Those that are asked."""
        return {self.open[token].registration.instance for token in backend.outstanding}
