"""Events: changes of the pool caused by datagrams, timers, operators and sessions. Frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from rproxy.pool.backend import Backend
from rproxy.pool.states import Administration, Event, State


@attrs.frozen
class Registered:
    """A REGISTER was accepted."""

    backend: Backend
    changed: bool
    """Whether it added the back-end or changed its registration."""
    probe_now: bool
    """Whether to probe the agent of this back-end, which is up, at once: it drains, or ceases to."""


@attrs.frozen
class Reported:
    """A probe was answered in time, and its figures are in the back-end."""

    backend: Backend
    token: int
    sample_ms: float


@attrs.frozen
class AgentRestarted:
    """A probe was answered by a new instance of the agent."""

    backend: Backend


@attrs.frozen
class DrainingChanged:
    """The agent asks for no new clients (`Backend.draining`), or for clients again."""

    backend: Backend


@attrs.frozen
class ProbeLost:
    """The timeout of a probe has passed without an answer.

    `misses` is how many in a row were lost. `counted` is whether this loss is one of them; losses of unconfirmed
    agents and of probes `on_demand` are not. `first` is whether it is the first in a row of a back-end that is up.
    `urgent` is whether so many on demand were lost in a row that the next periodic probe is to be sent at once.
    """

    backend: Backend
    token: int
    misses: int
    counted: bool
    first: bool
    on_demand: bool = False
    urgent: bool = False


@attrs.frozen
class Checked:
    """A check of a back-end without an agent has ended: `failure` says why it failed, empty if it was answered."""

    backend: Backend
    failure: str


@attrs.frozen
class AgentCheckChanged:
    """A back-end's agent-check says something else than before, see `Static.orders`: not merely another weight."""

    backend: Backend


@attrs.frozen
class Transitioned:
    """A back-end's state changed by `event`; `reason` is for the log."""

    backend: Backend
    before: State
    after: State
    event: Event
    reason: str


@attrs.frozen
class EligibilityChanged:
    """A back-end became eligible for clients, or ceased to be.

    There is no event when it becomes full, since sessions fill and free back-ends all the time; only when it no longer
    is, or may get no clients even then.
    """

    backend: Backend
    eligible: bool


@attrs.frozen
class PanicChanged:
    """A panic has begun or ended: in one, back-ends that are down get clients as well."""

    panicking: bool


@attrs.frozen
class Administered:
    """An operator drained a back-end, or returned it to service."""

    backend: Backend
    administration: Administration


@attrs.frozen
class Weighed:
    """An operator gave a back-end a weight, or, with None, its own one again."""

    backend: Backend
    weight: int | None


@attrs.frozen
class PassedOver:
    """The policy passes over a back-end from now on, for `reason`; with none, it does not any more."""

    backend: Backend
    reason: str


PoolEvent = (
    Registered
    | Reported
    | AgentRestarted
    | DrainingChanged
    | ProbeLost
    | Checked
    | AgentCheckChanged
    | Transitioned
    | EligibilityChanged
    | PanicChanged
    | Administered
    | Weighed
    | PassedOver
)
Events = tuple[PoolEvent, ...]
"""In the order in which they happened."""
NOTHING: Final[Events] = ()

Observers = Mapping[type[PoolEvent], Callable[[Any], None]]
"""Callbacks by the kind of event that they observe."""
