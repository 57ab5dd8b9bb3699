"""How candidates are picked by their keys, and what operators are told of that."""

from __future__ import annotations

import pytest

from rproxy.policies.rules import DRAWN, FIRST_WITH_ROOM, HOT_COLD, LOWEST, TOURNAMENT
from rproxy.pool.comparison import Candidate, Key, Rule


@pytest.mark.parametrize(
    ("rule", "numbers", "keys", "picked", "said"),
    [
        (LOWEST, (), [(0, 1, 0, 5)], 0, "no other may get this client"),
        (LOWEST, (), [(0, 2, 0, 5), (0, 1, 0, 6)], 1, "it has the lowest value, 1; a comes next with 0"),
        (
            LOWEST,
            (),
            [(0, 1, 2, 5), (0, 1, 3, 4)],
            0,
            "its value, 0, is as low as that of b, and it has fewer",
        ),
        (LOWEST, (), [(0, 1, 2, 5), (0, 1, 2, 4)], 1, "its value, 1, is as low as that of a, and it was chosen longer"),
        (LOWEST, (), [(1, 0, 0, 1), (0, 9, 0, 2), (1, 0, 0, 3)], 1, "all others have just failed, a among them"),
        (LOWEST, (), [(1, 3, 0, 1), (1, 2, 0, 2)], 1, "all have just failed; of these, it has the lowest value, 1;"),
        (DRAWN, (30, 40), [(0, 10), (10, 30)], 1, "it was drawn, with a chance of 75 %"),
        (DRAWN, (9, 40), [(0, 10), (10, 30)], 0, "it was drawn, with a chance of 25 %"),
        (TOURNAMENT, (), [(1, 5, 100)], 0, "it alone was drawn"),
        (
            TOURNAMENT,
            (),
            [(1, 5, 100), (1, 5, 100)],
            0,
            "it was drawn first, and none of the others that were drawn, b, is clearly less loaded",
        ),
        (
            TOURNAMENT,
            (),
            [(1, 5, 100), (1, 3, 100), (1, 3, 100)],
            1,
            "it was drawn after a, and is clearly less loaded; none of those drawn later, c, is clearly less loaded",
        ),
        (
            HOT_COLD,
            (0.6,),
            [(1.0, 1, 100, 0.01), (0.1, 9, 100, 0.1), (0.1, 2, 100, 0.03)],
            2,
            "it was drawn after a, and is clearly faster; of those drawn 1 are hot",
        ),
        (FIRST_WITH_ROOM, (), [(0.2, 3, 8), (0.1, 3, 8)], 1, "it comes first in this client's order"),
        (
            FIRST_WITH_ROOM,
            (),
            [(0.1, 8, 8), (0.2, 3, 8), (0.3, 3, 8)],
            1,
            "it comes next in this client's order: too many sessions are on a",
        ),
    ],
)
def test_what_is_picked_and_said(rule: Rule, numbers: Key, keys: list[Key], picked: int, said: str) -> None:
    assert rule.pick(keys, numbers) == picked
    assert all(len(key) == len(rule.parts) for key in keys)
    assert len(numbers) == len(rule.given)
    seen = [Candidate(name, float(value), key) for value, (name, key) in enumerate(zip("abc", keys, strict=False))]
    assert rule.say(seen, numbers, picked).startswith(said)


def test_where_nobody_has_room_nobody_is_picked() -> None:
    assert FIRST_WITH_ROOM.pick([(0.1, 8, 8), (0.2, 9, 8)], ()) is None


def test_a_point_beyond_the_parts_that_are_known_picks_nobody() -> None:
    assert DRAWN.pick([(0, 10)], (10, 40)) is None
