"""What events of the pool cause in it: probes and candidates are dropped, and the policy is notified."""

from __future__ import annotations

import attrs

from rproxy.pool.candidates import Candidates
from rproxy.pool.eligibility import Eligibility
from rproxy.pool.events import NOTHING, Events, PanicChanged, Transitioned
from rproxy.pool.guard import Guard
from rproxy.pool.probes import Probes
from rproxy.pool.states import State


@attrs.frozen
class Consequences:
    """Updates probes, candidates and the policy for events."""

    probes: Probes
    candidates: Candidates
    eligibility: Eligibility
    guard: Guard

    def __call__(self, events: Events, now: float) -> Events:
        """Returns the events, followed by those that they have caused."""
        caused = NOTHING
        for event in events:
            if isinstance(event, Transitioned) and event.after in (State.DEPARTED, State.FORGOTTEN):
                self.probes.forget(event.backend)
                if event.after is State.FORGOTTEN:
                    self.candidates.drop(event.backend)
                caused += self.guard.reported(event.backend, now)
            elif isinstance(event, PanicChanged):
                for backend in self.eligibility.eligible:
                    caused += self.guard.reported(backend, now)
        return events + caused if caused else events
