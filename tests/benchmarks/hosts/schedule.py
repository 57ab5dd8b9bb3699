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
"""Mean times from an answer to the next piece of work of a long session."""
ANSWER_S: Final = 0.05
"""A typical response time."""
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
    """No work is due later; it is closed then, or with the last answer."""
    proxy: float
    """Which of the proxies it goes to, 0..1: the same draw for any number of them."""
    pieces: Sequence[tuple[float, float]]
    """Of each piece of work, when it is due, in s after the answer to the one before or the opening; and the CPU time
    in s that it costs.
    """

    @property
    def as_json(self) -> list[Any]:
        """What `from_json` takes."""
        return list(attrs.astuple(self, recurse=False))

    @classmethod
    def from_json(cls, values: list[Any]) -> Session:
        return cls(*values)


def _work(rng: Random) -> float:
    return rng.expovariate(1 / WORK_S)


def short_sessions(rng: Random, rate: float, seconds: float) -> list[Session]:
    """A Poisson process of sessions of one piece of work each, `rate` of them per second."""
    sessions = []
    now = 0.0
    while (now := now + rng.expovariate(rate)) < seconds:
        sessions.append(Session(now, now, rng.random(), [(0.0, _work(rng))]))
    return sessions


def long_sessions(rng: Random, rate: float, seconds: float) -> list[Session]:
    """Sessions that live long, with `rate` pieces of work per second in all where answers take `ANSWER_S`.

    They are those of a fixed number of users, of which one in ten has often work: each opens a session soon after the
    beginning, and the next one when that closes. So there is as much work at any time.
    """
    users = round(rate / ((1 - 1 / OFTEN_EACH) / (SELDOM_S + ANSWER_S) + 1 / OFTEN_EACH / (OFTEN_S + ANSWER_S)))
    return [session for user in range(users) for session in _user(rng, seconds, often=not user % OFTEN_EACH)]


def _user(rng: Random, seconds: float, *, often: bool) -> Iterator[Session]:
    life_s = min(LONG_S, seconds / 2)
    opens_s = rng.uniform(0.0, min(OPENING_S, seconds))
    while opens_s < seconds:
        closes_s = min(opens_s + rng.expovariate(1 / life_s), seconds)
        pieces = list(_pieces(rng, OFTEN_S if often else SELDOM_S, closes_s - opens_s))
        yield Session(opens_s, closes_s, rng.random(), pieces)
        opens_s = closes_s


def _pieces(rng: Random, pause_s: float, life_s: float) -> Iterator[tuple[float, float]]:
    """As many as there may be in a life, were all answers immediate."""
    now = 0.0
    while now < life_s:
        waits_s = rng.expovariate(1 / pause_s)
        now += waits_s
        yield waits_s, _work(rng)


SESSIONS: Final = {"short": short_sessions, "long": long_sessions}
"""What a pool is for."""
