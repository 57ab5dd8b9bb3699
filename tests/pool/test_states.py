"""The states of a back-end: every event in every state."""

from __future__ import annotations

from itertools import product

import pytest

from rproxy.pool.states import TRANSITIONS, Event, IllegalTransition, State, after

STATES = ("registered", "up", "suspect", "down", "departed", "forgotten")
CELLS = {
    #               registered   up           suspect      down         departed     forgotten
    "answered":     ("up",        "up",        "up",        "down",      "up",        None),
    "risen":        (None,        None,        None,        "up",        None,        None),
    "missed":       ("forgotten", "suspect",   "suspect",   "down",      None,        None),
    "fallen":       ("down",      None,        "down",      None,        None,        None),
    "stopped":      ("down",      "down",      "down",      "down",      None,        None),
    "silent":       ("forgotten", "down",      "down",      None,        None,        None),
    "refused":      (None,        "down",      "down",      "down",      None,        None),
    "added":        (None,        None,        None,        None,        "registered", None),
    "unregistered": ("forgotten", "forgotten", "forgotten", "forgotten", None,        None),
    "expired":      (None,        "forgotten", "forgotten", "forgotten", None,        None),
    "left":         ("departed",  "departed",  "departed",  "departed",  None,        None),
    "emptied":      (None,        None,        None,        None,        "forgotten", None),
}  # fmt: skip
"""What each event makes of each state; None where it cannot happen."""
LEGAL = [(before, event, row[at]) for event, row in CELLS.items() for at, before in enumerate(STATES) if row[at]]
ILLEGAL = [(before, event) for event, row in CELLS.items() for at, before in enumerate(STATES) if not row[at]]


def test_every_event_in_every_state_has_a_cell() -> None:
    assert set(STATES) == {state.value for state in State}
    assert set(CELLS) == {event.value for event in Event}
    assert len(LEGAL) + len(ILLEGAL) == len(State) * len(Event)


@pytest.mark.parametrize(("before", "event", "then"), LEGAL)
def test_an_event_leads_to_the_state_in_its_cell(before: str, event: str, then: str) -> None:
    assert after(State(before), Event(event)) is State(then)


@pytest.mark.parametrize(("before", "event"), ILLEGAL)
def test_an_event_that_cannot_happen_in_a_state_is_illegal(before: str, event: str) -> None:
    with pytest.raises(IllegalTransition, match=f"^{event} while {before}$"):
        after(State(before), Event(event))


def test_the_table_has_the_legal_cells_and_no_other() -> None:
    cells = {(str(state), str(event), str(then)) for state, row in TRANSITIONS.items() for event, then in row.items()}
    assert cells == set(LEGAL)


@pytest.mark.parametrize("state", State)
def test_every_state_but_the_first_is_reached_and_every_one_but_the_last_is_left(state: State) -> None:
    others = [row for before, row in TRANSITIONS.items() if before is not state]
    assert any(state in row.values() for row in others)
    assert bool(TRANSITIONS[state]) is (state is not State.FORGOTTEN)


@pytest.mark.parametrize(("one", "other"), list(product(State, State)))
def test_states_are_told_apart_as_keys(one: State, other: State) -> None:
    assert ({one: 1}.get(other) is not None) is (one is other)
