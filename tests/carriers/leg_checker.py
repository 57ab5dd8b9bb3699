"""Which states of legs are legal, and a check of every change of state of every leg, while it is switched on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import attrs

from rproxy.carriers.splice.leg import Leg
from rproxy.carriers.splice.states import (
    BULK,
    CLIENT,
    CLOSED,
    CONNECTING,
    DEAD,
    EARLY,
    EOF,
    HEADER,
    HUNG_UP,
    LISTENING,
    NAGLE,
    ORPHANED,
    READABLE,
    SHUT,
    STALLED,
    UNSPLICEABLE,
    WAITING,
    WATCHED,
    WROTE,
    describe,
)


@attrs.frozen
class LegalStates:
    """The legal states of one kind of descriptor: the bits that are set, and those that may be."""

    kind: str
    required: int
    optional: int = 0

    def includes(self, state: int) -> bool:
        return state & self.required == self.required and not state & ~(self.required | self.optional)


_TRANSFER: Final = EOF | SHUT | HUNG_UP | READABLE | STALLED | BULK | UNSPLICEABLE | DEAD | ORPHANED
LEGAL: Final = (
    LegalStates("client", CLIENT, _TRANSFER),
    LegalStates("client before its header", CLIENT | HEADER),
    LegalStates("waiting client", CLIENT | WAITING, EOF | SHUT | HUNG_UP | READABLE | BULK | UNSPLICEABLE),
    LegalStates("connecting back-end", CONNECTING | NAGLE, STALLED),
    LegalStates("back-end", 0, NAGLE | WROTE | EARLY | _TRANSFER),
    LegalStates("closed", CLOSED),
    LegalStates("listener", LISTENING),
    LegalStates("watched", WATCHED),
)
"""All legal states, by kind of descriptor."""
PERMANENT: Final = CLIENT | WROTE | EOF | SHUT | HUNG_UP | UNSPLICEABLE | DEAD | ORPHANED
"""Bits that stay set until the leg is closed."""


def violation(before: int | None, after: int) -> str | None:
    """What is illegal about a leg's change of state, None if nothing is. `before` is None for a new leg."""
    if not any(legal.includes(after) for legal in LEGAL):
        return f"{describe(after)} is no legal state"
    if after == CLOSED or before is None:
        return None
    if before == CLOSED:
        return f"a closed leg becomes {describe(after)}"
    if lost := before & PERMANENT & ~after:
        return f"{describe(before)} loses {describe(lost)}"
    if late := after & ~before & (CLIENT | CONNECTING):
        return f"{describe(before)} becomes {describe(late)}"
    return None


class IllegalState(AssertionError):
    """A leg's new state is illegal."""


def complaint(leg: Leg, before: int | None, after: int) -> str | None:
    """What is wrong with a leg that is about to be in the state `after`; None if nothing is."""
    illegal = violation(before, after)
    if illegal is not None or after == CLOSED:
        return illegal
    if after & STALLED and leg.backlog is None and leg.pipe is None:
        return f"{describe(after)} without anything to be written"
    if after & (ORPHANED | WAITING) and leg.peer is not None:
        return f"{describe(after)} with a peer"
    return None


@contextmanager
def checked_legs() -> Iterator[list[str]]:
    """Have illegal changes of `Leg.state` raise `IllegalState`, and noted in the list, as carriers log exceptions.

    The attribute is replaced by a property meanwhile: production code has no hook for it, and so no cost.
    """
    found: list[str] = []
    slot: Any = Leg.__dict__["state"]

    def change(leg: Leg, after: int) -> None:
        before = slot.__get__(leg) if is_set(leg) else None
        wrong = complaint(leg, before, after)
        if wrong is not None:
            found.append(wrong)
            raise IllegalState(wrong)
        slot.__set__(leg, after)

    def is_set(leg: Leg) -> bool:
        try:
            slot.__get__(leg)
        except AttributeError:
            return False
        return True

    replaceable: Any = Leg
    replaceable.state = property(slot.__get__, change)
    try:
        yield found
    finally:
        replaceable.state = slot
