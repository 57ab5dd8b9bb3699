"""Choosers to compare with that no proxy could have: they see the simulated hosts. And two random choices, for theory.

Each is a `pool.policy.Policy`, so that the pool treats them as all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from rproxy.net.addresses import Address
from rproxy.policies.drawing import Rng
from rproxy.pool.backend import Backend
from rproxy.pool.policy import NO_EXPLANATION, Explanation
from rproxy.study.hosts import Host

HOG_NOW: Final = 0.3
"""Of a long session's host, how much the hog of this moment counts; the rest is what its hogs leave on average."""
_FAILS: Final = 1e9


class Uninformed:
    """A policy that no notification concerns."""

    def opened(self, backend: Backend, now: float) -> None:
        """See `Policy`."""

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`."""

    def failed(self, backend: Backend, now: float) -> None:
        """See `Policy`."""

    def reported(self, backend: Backend, now: float) -> None:
        """See `Policy`."""

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`. A study does not ask."""
        return NO_EXPLANATION


class TwoChoices(Uninformed):
    """Draws two back-ends and takes the one with fewer of our sessions, as the theory has it: weights do not count."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        """See `Policy`."""
        pool = [each for each in eligible if each not in exclude] if exclude else eligible
        if len(pool) < 2:
            return pool[0] if pool else None
        first = int(self._rng.random() * len(pool))
        second = int(self._rng.random() * (len(pool) - 1))
        one, other = pool[first], pool[second + (second >= first)]
        return one if one.connections <= other.connections else other


class AllKnowing(Uninformed):
    """Knows all sessions on every host, and what its hog leaves this moment: the least expected delay.

    Greedy for the client at hand, so not a strict bound, but close to what any chooser can do. `hog_mean` is the
    share that hogs take on average. Where sessions are `long`, it knows what each of them asks for.
    """

    def __init__(self, hosts: Mapping[str, Host], *, long: bool, hog_mean: float) -> None:
        self._hosts = hosts
        self._value = self._long if long else self._short
        self._left = 1 - hog_mean
        self._turn = 0
        self._chosen: dict[Backend, int] = {}

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        """See `Policy`. Among equals, the one that has waited longest."""
        chosen, hosts, value = self._chosen, self._hosts, self._value
        found, least = None, (0.0, 0)
        for backend in eligible:
            if exclude and backend in exclude:
                continue
            key = value(hosts[backend.address]), chosen.get(backend, 0)
            if found is None or key < least:
                found, least = backend, key
        return found

    def opened(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        self._turn += 1
        self._chosen[backend] = self._turn

    def _short(self, host: Host) -> float:
        spec = host.spec
        if spec.sink is not None:
            return _FAILS
        jobs, capacity = host.active + 1, host.capacity
        return max(jobs / capacity, 1 / spec.speed + 1e-3 * jobs / capacity)

    def _long(self, host: Host) -> float:
        usual = host.spec.speed * host.spec.cores * self._left
        free = HOG_NOW * host.capacity + (1 - HOG_NOW) * usual - host.demand
        return 1 / free if free > 1e-3 else 1e6 - free
