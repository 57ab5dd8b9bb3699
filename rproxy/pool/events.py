"""What has changed in the pool by a datagram, a timer, an operator or a session: frozen, for observers to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from rproxy.pool.backend import Backend
from rproxy.pool.states import Administration, State


@attrs.frozen
class Registered:
    """A REGISTER counts."""

    backend: Backend
    changed: bool
    """Whether something of the back-end itself has changed by it."""
    probe_now: bool
    """Whether its agent, which is up, is to be probed at once: it begins or ceases to drain."""


@attrs.frozen
class Reported:
    """A probe was answered in time, and its figures are in the back-end."""

    backend: Backend
    token: int
    sample_ms: float


@attrs.frozen
class AgentRestarted:
    """The agent that has answered is another instance than the one before."""

    backend: Backend


@attrs.frozen
class DrainingChanged:
    """The agent asks for no new clients (`Backend.draining`), or for clients again."""

    backend: Backend


@attrs.frozen
class ProbeLost:
    """The timeout of a probe has passed without an answer.

    `misses` is how many in a row were lost. `counted` is whether this one is held against the back-end: not that of
    an agent which nothing has confirmed. `first` is whether it is the first in a row of a back-end that is up.
    """

    backend: Backend
    token: int
    misses: int
    counted: bool
    first: bool


@attrs.frozen
class Transitioned:
    """A back-end went from one state to another."""

    backend: Backend
    before: State
    after: State
    reason: str


@attrs.frozen
class EligibilityChanged:
    """A back-end may get clients from now on, or may not any more."""

    backend: Backend
    eligible: bool


@attrs.frozen
class PanicChanged:
    """A panic has begun or ended: in one, back-ends that are down get clients as well."""

    panicking: bool


@attrs.frozen
class Administered:
    """An operator has drained a back-end, or made it ready again."""

    backend: Backend
    administration: Administration


PoolEvent = (
    Registered
    | Reported
    | AgentRestarted
    | DrainingChanged
    | ProbeLost
    | Transitioned
    | EligibilityChanged
    | PanicChanged
    | Administered
)
Events = tuple[PoolEvent, ...]
"""In the order in which they happened."""
NOTHING: Final[Events] = ()

Observers = Mapping[type[PoolEvent], Callable[[Any], None]]
"""Callbacks by the kind of event that they observe."""
