"""What a policy compares for one client, so that its choice can be recomputed from a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import attrs

Key = tuple[float, ...]
"""The numbers that a rule compares of one candidate."""

T = TypeVar("T")


class Candidate(NamedTuple):
    """A candidate as operators are told of it."""

    name: str
    value: float
    """What `Policy.explain` said of it."""
    key: Key


Seen = Sequence[Candidate]


class Rule(Protocol):
    """How a policy picks one of its candidates by their keys. Pure, and without state: one object serves all choices.

    Both methods get at least one candidate, in the policy's order, and the numbers that it gave besides.
    """

    @property
    def name(self) -> str:
        """A word, for programs."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What the numbers of a key are."""

    @property
    def given(self) -> tuple[str, ...]:
        """What the numbers are that it gets besides the keys."""

    def pick(self, keys: Sequence[Key], numbers: Key) -> int | None:
        """The index of the candidate that gets the client; None if none of them does. Raises nothing."""

    def say(self, seen: Seen, numbers: Key, picked: int) -> str:
        """Why the candidate that was `picked` gets it: one sentence for operators, without a full stop."""


@attrs.frozen
class Comparison(Generic[T]):
    """The candidates for one client, and the rule that picks among them."""

    rule: Rule
    candidates: Sequence[T]
    keys: Sequence[Key]
    """Of each candidate."""
    given: Key = ()
    """What the rule needs besides."""
    more: int = 0
    """How many others might have got the client and are not among the candidates."""
    floor: Key | None = None
    """No key of those others is below it; None where their keys do not matter."""
    otherwise: Comparison[T] | None = None
    """Decides where the rule picks none."""

    def winner(self) -> T | None:
        """The one that gets the client, by the rule and the keys alone; None if that is none of the candidates."""
        picked = self.rule.pick(self.keys, self.given) if self.keys else None
        if picked is None:
            return None if self.otherwise is None else self.otherwise.winner()
        if self.floor is not None and self.keys[picked] > self.floor:
            return None
        return self.candidates[picked]


class _OwnRule:
    """Stands for the rule of a policy without `compare`: its choices cannot be recomputed."""

    name = "own"
    parts = ("value",)
    given = ()

    def pick(self, keys: Sequence[Key], numbers: Key) -> int | None:
        return None

    def say(self, seen: Seen, numbers: Key, picked: int) -> str:
        return "by a rule that the policy does not tell"


OWN_RULE: Final[Rule] = _OwnRule()
