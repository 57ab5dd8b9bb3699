"""The operational states of a back-end, and the table of all transitions between them.

Draining, by an operator (`Administration`) or by the agent (the D bit), is independent of these states.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import attrs


class State(StrEnum):
    """The operational state of a back-end."""

    REGISTERED = "registered"
    """Its agent has not answered a probe yet; or, without an agent, no check has told yet whether it is up."""
    UP = "up"
    SUSPECT = "suspect"
    """Up, but its last probe was lost, or its last check failed."""
    DOWN = "down"
    DEPARTED = "departed"
    """It has unregistered or expired, or the configuration no longer names it, while sessions are on it. It gets no new
    ones."""
    FORGOTTEN = "forgotten"
    """Removed from the pool."""

    __hash__ = str.__hash__  # Enum.__hash__ is Python code


class Event(StrEnum):
    """What happens to a back-end."""

    ANSWERED = "answered"
    """A valid response to a probe, or to a check."""
    RISEN = "risen"
    """`RISE` probes or checks in a row were answered, and the hold-down is over."""
    MISSED = "missed"
    """A probe was lost, or a check failed."""
    FALLEN = "fallen"
    """`FALL` probes in a row were lost, or as many checks failed."""
    STOPPED = "stopped"
    """Its agent-check says that it is down."""
    SILENT = "silent"
    """The liveness check found no answered probe for too long."""
    REFUSED = "refused"
    """`REFUSALS` connects in a row failed, or no new session got a byte."""
    ADDED = "added"
    """The configuration names it, while sessions are on it from before."""
    UNREGISTERED = "unregistered"
    """Its agent says so, or the configuration does not name it any more."""
    EXPIRED = "expired"
    """No probe was answered, or no registration came, for longer than the row is kept."""
    LEFT = "left"
    """UNREGISTERED or EXPIRED, while sessions are on it."""
    EMPTIED = "emptied"
    """The last session of a departed back-end has ended."""

    __hash__ = str.__hash__


class Administration(StrEnum):
    """Set by operators, independent of the state."""

    READY = "ready"
    DRAIN = "drain"
    """No new sessions; existing ones continue until they end."""
    MAINT = "maint"
    """As `DRAIN`; and whatever its agent or its checks say, it does not count as down."""


@attrs.frozen
class Override:
    """What an operator has set for a back-end, in place of what its agent or the configuration says."""

    administration: Administration = Administration.READY
    weight: int | None = None
    """In place of the one that its agent or the configuration says; None for that one."""
    since: float = 0.0
    """When `administration` was last changed, as Unix time in s; 0 for never."""


NO_OVERRIDE: Final = Override()


_REGISTERED, _UP, _SUSPECT, _DOWN, _DEPARTED, _FORGOTTEN = State

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    _REGISTERED: {
        Event.ANSWERED: _UP,
        Event.MISSED: _FORGOTTEN,
        Event.FALLEN: _DOWN,
        Event.STOPPED: _DOWN,
        Event.SILENT: _FORGOTTEN,
        Event.UNREGISTERED: _FORGOTTEN,
        Event.LEFT: _DEPARTED,
    },
    _UP: {
        Event.ANSWERED: _UP,
        Event.MISSED: _SUSPECT,
        Event.STOPPED: _DOWN,
        Event.SILENT: _DOWN,
        Event.REFUSED: _DOWN,
        Event.UNREGISTERED: _FORGOTTEN,
        Event.EXPIRED: _FORGOTTEN,
        Event.LEFT: _DEPARTED,
    },
    _SUSPECT: {
        Event.ANSWERED: _UP,
        Event.MISSED: _SUSPECT,
        Event.FALLEN: _DOWN,
        Event.STOPPED: _DOWN,
        Event.SILENT: _DOWN,
        Event.REFUSED: _DOWN,
        Event.UNREGISTERED: _FORGOTTEN,
        Event.EXPIRED: _FORGOTTEN,
        Event.LEFT: _DEPARTED,
    },
    _DOWN: {
        Event.ANSWERED: _DOWN,
        Event.RISEN: _UP,
        Event.MISSED: _DOWN,
        Event.STOPPED: _DOWN,
        Event.REFUSED: _DOWN,
        Event.UNREGISTERED: _FORGOTTEN,
        Event.EXPIRED: _FORGOTTEN,
        Event.LEFT: _DEPARTED,
    },
    _DEPARTED: {
        Event.ANSWERED: _UP,
        Event.ADDED: _REGISTERED,
        Event.EMPTIED: _FORGOTTEN,
    },
    _FORGOTTEN: {},
}
"""The state after each event. Events that are missing are illegal in that state."""


class IllegalTransition(Exception):
    """An event happened in a state in which it cannot: a bug."""


def after(state: State, event: Event) -> State:
    """The state that `event` leads to. Raises `IllegalTransition`."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event.value} while {state.value}") from None


def is_lapse(before: State, now: State) -> bool:
    """Whether a change is one lost probe, or the end of that: UP to SUSPECT, or back."""
    return {before, now} == {_UP, _SUSPECT}
