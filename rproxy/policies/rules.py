"""How the built-in policies pick one of their candidates: pure functions of numbers, see `pool.comparison.Rule`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rproxy.pool.comparison import Key, Rule, Seen

_TIE: Final = 0.5


def takes_over(cost: float, sessions: float, weight: float, than: tuple[float, float, float]) -> bool:
    """Whether a back-end is to get a client instead of another one, `than`, that was drawn before it.

    Of each: what a session costs, how many there are, and the weight. With the client, it must be less loaded than the
    other one would be with half a client more. So of two that are as loaded, or idle and not different by a factor of
    two, the one drawn first stays: weights are shares of idle hosts, and noise does not send every client to one host.
    """
    other_cost, other_sessions, other_weight = than
    tie = _TIE / max(weight, other_weight)
    return cost * (sessions + 1) / weight <= other_cost * (other_sessions / other_weight + tie)


def quantile(numbers: Sequence[float], fraction: float) -> float:
    """The lowest of the numbers that is not below this fraction (0..1) of them, the last one aside."""
    return sorted(numbers)[int(fraction * (len(numbers) - 1))]


class _Lowest:
    """The lowest key: back-ends in the order of a rank, see `Ranked`."""

    name = "lowest"
    parts = ("failed", "rank", "then by", "last chosen")
    given = ()

    def pick(self, keys: Sequence[Key], numbers: Key) -> int | None:
        return min(range(len(keys)), key=keys.__getitem__, default=None)

    def say(self, seen: Seen, numbers: Key, picked: int) -> str:
        if len(seen) == 1:
            return "no other may get this client"
        name, value, key = seen[picked]
        beside, other_value, other = min((each for each in seen if each[0] != name), key=lambda each: each.key)
        if key[0] != other[0]:
            return f"all others have just failed, {beside} among them"
        failed = "all have just failed; of these, " if key[0] else ""
        if key[1] != other[1]:
            return f"{failed}it has the lowest value, {value:.4g}; {beside} comes next with {other_value:.4g}"
        equal = f"{failed}its value, {value:.4g}, is as low as that of {beside}"
        if key[2] != other[2]:
            return f"{equal}, and it has fewer sessions, or its turn comes first"
        return f"{equal}, and it was chosen longer ago"


class _Drawn:
    """The one whose part of the weights contains a random point: keys are where the parts start, and the weights."""

    name = "drawn"
    parts = ("from", "weight")
    given = ("point", "of")

    def pick(self, keys: Sequence[Key], numbers: Key) -> int | None:
        point = numbers[0]
        return next((index for index, (start, weight) in enumerate(keys) if start <= point < start + weight), None)

    def say(self, seen: Seen, numbers: Key, picked: int) -> str:
        return f"it was drawn, with a chance of {100 * seen[picked].key[1] / numbers[1]:.3g} %"


class _Tournament:
    """Of those drawn, in this order, each next one takes over if it is clearly less loaded."""

    name = "less-loaded"
    parts = ("cost", "sessions", "weight")
    given = ()

    def pick(self, keys: Sequence[Key], numbers: Key) -> int | None:
        best, least = None, (0.0, 0.0, 0.0)
        for index, (cost, sessions, weight) in enumerate(keys):
            if best is None or takes_over(cost, sessions, weight, least):
                best, least = index, (cost, sessions, weight)
        return best

    def say(self, seen: Seen, numbers: Key, picked: int) -> str:
        return _said_of_drawn([each.name for each in seen], picked, "clearly less loaded")


class _HotCold:
    """Of those drawn, the tournament between the cold ones: whose load, the last number, is not above the quantile."""

    name = "cold-and-fast"
    parts = ("latency_s", "in flight", "weight", "load")
    given = ("quantile",)

    def pick(self, keys: Sequence[Key], numbers: Key) -> int | None:
        threshold = quantile([key[3] for key in keys], numbers[0])
        best, least = None, (0.0, 0.0, 0.0)
        for index, (latency_s, flight, weight, load) in enumerate(keys):
            if load <= threshold and (best is None or takes_over(latency_s, flight, weight, least)):
                best, least = index, (latency_s, flight, weight)
        return best

    def say(self, seen: Seen, numbers: Key, picked: int) -> str:
        threshold = quantile([each.key[3] for each in seen], numbers[0])
        cold = [each.name for each in seen if each.key[3] <= threshold]
        hot = f"; of those drawn {len(seen) - len(cold)} are hot" if len(cold) < len(seen) else ""
        return _said_of_drawn(cold, cold.index(seen[picked].name), "clearly faster") + hot


def _said_of_drawn(names: Sequence[str], picked: int, better: str) -> str:
    others = [name for index, name in enumerate(names) if index != picked]
    if not others:
        return "it alone was drawn"
    if not picked:
        return f"it was drawn first, and none of the others that were drawn, {', '.join(others)}, is {better}"
    later = (
        f"; none of those drawn later, {', '.join(names[picked + 1 :])}, is {better} again"
        if names[picked + 1 :]
        else ""
    )
    return f"it was drawn after {', '.join(names[:picked])}, and is {better}{later}"


class _FirstWithRoom:
    """The first one in the client's order that has fewer sessions than its bound; else another policy decides."""

    name = "affinity"
    parts = ("place", "sessions", "bound")
    given = ()

    def pick(self, keys: Sequence[Key], numbers: Key) -> int | None:
        having_room = [index for index, (_, sessions, bound) in enumerate(keys) if sessions < bound]
        return min(having_room, key=keys.__getitem__, default=None)

    def say(self, seen: Seen, numbers: Key, picked: int) -> str:
        passed = [each.name for each in seen if each.key < seen[picked].key]
        if not passed:
            return "it comes first in this client's order"
        return f"it comes next in this client's order: too many sessions are on {', '.join(passed)}"


LOWEST: Final[Rule] = _Lowest()
DRAWN: Final[Rule] = _Drawn()
TOURNAMENT: Final[Rule] = _Tournament()
HOT_COLD: Final[Rule] = _HotCold()
FIRST_WITH_ROOM: Final[Rule] = _FirstWithRoom()
