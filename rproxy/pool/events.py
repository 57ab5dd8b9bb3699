"""What the table gives back: what has changed by a datagram, by silence, or by a session."""

from __future__ import annotations

import attrs

from rproxy.pool.backend import Backend, Registration
from rproxy.pool.states import State
from rproxy.wire.pdu import ProbeRequest


@attrs.frozen
class Transition:
    """A back-end went from one state to another."""

    backend: Backend
    before: State
    after: State
    reason: str


@attrs.frozen
class Registered:
    """A REGISTER that counts."""

    backend: Backend
    news: bool
    """Whether something of the back-end itself has changed by it."""
    asks: bool
    """Whether its agent, which is up, is to be probed at once: it drains, or has done so."""


@attrs.frozen
class Probe:
    """A request sent and not yet confirmed."""

    backend: Backend
    request: ProbeRequest
    registration: Registration
    sent_at: float
    counted: int


@attrs.frozen
class Confirmed:
    """What one valid response told."""

    backend: Backend
    sample_ms: float
    restarted: bool
    """Whether the agent is another instance than the one that answered before."""
    turned: bool
    """Whether it drains, and has not before, or the other way round."""
    transition: Transition | None
