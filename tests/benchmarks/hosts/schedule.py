"""What happens in a run: when hogs are active, and which work the clients ask for. Times are in s from its start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Final

import attrs

WORK_S: Final = 0.008
"""Mean CPU time of a piece of work."""
HOG_ON_S: Final = 2.0
HOG_OFF_S: Final = 4.0
"""Means of the times for which a hog is active and is not, exponentially distributed."""
HOG_SHARE: Final = (0.3, 0.8)
"""The share of the quota that an active hog takes is between these."""
LONG_S: Final = 60.0
"""Mean life of a long session, at most half of the run."""
SELDOM_S: Final = 2.0
OFTEN_S: Final = 0.2
"""Mean times between the pieces of work of a long session."""
OFTEN_EACH: Final = 10
"""One in this many users with long sessions has often work."""
OPENING_S: Final = 1.0
"""Within it the first long sessions are opened."""


@attrs.frozen
class Phase:
    """A time in which a hog takes this share of its host's quota."""

    begins_s: float
    ends_s: float
    share: float


def hog_phases(rng: Random, seconds: float) -> list[Phase]:
    """The phases of one hog."""
    phases = []
    active = rng.random() < HOG_ON_S / (HOG_ON_S + HOG_OFF_S)
    now = 0.0
    while now < seconds:
        then = now + rng.expovariate(1 / (HOG_ON_S if active else HOG_OFF_S))
        if active:
            phases.append(Phase(now, min(then, seconds), rng.uniform(*HOG_SHARE)))
        now, active = then, not active
    return phases


@attrs.frozen
class Session:
    """One connection of a client."""

    opens_s: float
    closes_s: float
    """It is closed then, or when its last piece of work has been answered if that is later."""
    proxy: float
    """Which of the proxies it goes to, 0..1: the same draw for any number of them."""
    pieces: Sequence[tuple[float, float]]
    """When each piece of work is due, and the CPU time in s that it costs."""

    @property
    def as_json(self) -> list[Any]:
        """What `from_json` takes."""
        return list(attrs.astuple(self, recurse=False))

    @classmethod
    def from_json(cls, values: list[Any]) -> Session:
        return cls(*values)


def _work(rng: Random) -> float:
    return rng.expovariate(1 / WORK_S)


def _poisson(rng: Random, rate: float, begins_s: float, ends_s: float) -> Iterator[float]:
    """The times of a Poisson process."""
    now = begins_s
    while (now := now + rng.expovariate(rate)) < ends_s:
        yield now


def short_sessions(rng: Random, rate: float, seconds: float) -> list[Session]:
    """Sessions of one piece of work each, `rate` of them per second."""
    return [Session(due, due, rng.random(), [(due, _work(rng))]) for due in _poisson(rng, rate, 0.0, seconds)]


def long_sessions(rng: Random, rate: float, seconds: float) -> list[Session]:
    """Sessions that live long, with `rate` pieces of work per second in all.

    They are those of a fixed number of users, of which one in ten has often work: each opens a session soon after the
    beginning, and the next one when that ends. So there is as much work at any time.
    """
    users = round(rate / ((1 - 1 / OFTEN_EACH) / SELDOM_S + 1 / OFTEN_EACH / OFTEN_S))
    return [session for user in range(users) for session in _user(rng, seconds, often=not user % OFTEN_EACH)]


def _user(rng: Random, seconds: float, *, often: bool) -> Iterator[Session]:
    life_s = min(LONG_S, seconds / 2)
    opens_s = rng.uniform(0.0, min(OPENING_S, seconds))
    while opens_s < seconds:
        closes_s = min(opens_s + rng.expovariate(1 / life_s), seconds)
        due = _poisson(rng, 1 / (OFTEN_S if often else SELDOM_S), opens_s, closes_s)
        yield Session(opens_s, closes_s, rng.random(), [(at_s, _work(rng)) for at_s in due])
        opens_s = closes_s


SESSIONS: Final = {"short": short_sessions, "long": long_sessions}
"""What a pool is for."""
