"""Checks every change of state of every leg, while it is switched on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rproxy.carriers.splice.leg import Leg
from rproxy.carriers.splice.states import CLOSED, ORPHANED, STALLED, WAITING, describe, violation


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
