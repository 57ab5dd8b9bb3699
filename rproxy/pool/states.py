"""The operational states of a back-end, and everything that can move it from one to another: one table.

The administrative axis, `Administration` and the agent's own D bit, is apart from it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """What the proxy holds a back-end for."""

    REGISTERED = "registered"
    """Its agent has not answered a probe yet."""
    UP = "up"
    SUSPECT = "suspect"
    """Up, but its last probe was lost."""
    DOWN = "down"
    DEPARTED = "departed"
    """It has gone, or nothing is heard of it any more, but sessions are on it; it gets no new one."""
    FORGOTTEN = "forgotten"
    """Not in the table any more."""

    __hash__ = str.__hash__  # an enumeration's own is Python code


class Event(StrEnum):
    """What happens to a back-end."""

    ANSWERED = "answered"
    """A valid response to a probe."""
    RISEN = "risen"
    """As many in a row as bring a back-end that is down up again, and its hold-down is over."""
    MISSED = "missed"
    """A probe was lost."""
    FALLEN = "fallen"
    """As many in a row were lost as take a back-end down."""
    SILENT = "silent"
    """The liveness check has seen nothing valid."""
    REFUSED = "refused"
    """As many connects in a row failed as take a back-end down."""
    UNREGISTERED = "unregistered"
    EXPIRED = "expired"
    """Nothing was heard of it, or of its registration, for so long that it is not kept."""
    LEFT = "left"
    """One of these two, while sessions are on it."""
    EMPTIED = "emptied"
    """The last of them has ended."""

    __hash__ = str.__hash__


class Administration(StrEnum):
    """What operators say of a back-end, whatever its state."""

    READY = "ready"
    DRAIN = "drain"
    """Its sessions may end by themselves; it gets no new one."""


_REGISTERED, _UP, _SUSPECT, _DOWN, _DEPARTED, _FORGOTTEN = State

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    _REGISTERED: {
        Event.ANSWERED: _UP,
        Event.MISSED: _FORGOTTEN,
        Event.SILENT: _FORGOTTEN,
        Event.UNREGISTERED: _FORGOTTEN,
    },
    _UP: {
        Event.ANSWERED: _UP,
        Event.MISSED: _SUSPECT,
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
        Event.REFUSED: _DOWN,
        Event.UNREGISTERED: _FORGOTTEN,
        Event.EXPIRED: _FORGOTTEN,
        Event.LEFT: _DEPARTED,
    },
    _DEPARTED: {
        Event.ANSWERED: _UP,
        Event.EMPTIED: _FORGOTTEN,
    },
    _FORGOTTEN: {},
}
"""The state after each event; an event that a state lacks cannot happen in it."""


class IllegalTransition(Exception):
    """An event that cannot happen in a state: a fault of this program."""


def after(state: State, event: Event) -> State:
    """The state that `event` leads to. Raises `IllegalTransition`."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event.value} while {state.value}") from None
